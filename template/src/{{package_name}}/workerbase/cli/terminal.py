"""Input and output of a terminal: tables, ages, durations, JSON, and text that others wrote."""

import difflib
import json
import logging
import re
import sys
from collections.abc import Iterable

import click
from rich import box
from rich.markup import escape
from rich.table import Table

from ..config import WorkerConfig
from ..engine.text import OBEYED
from ..errors import MAX_DURATION_S
from ..process.log_format import PlainFormatter

MAX_COLUMNS = 10_000
"""Width of output that no terminal shows: what reads a pipe reads lines."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def near(name: str, known: Iterable[str]) -> str:
    """Suggest what ``name`` was probably meant to be, or list what there is."""
    names = sorted(known)
    found = difflib.get_close_matches(name, names, 1)
    if found:
        return f"did you mean {found[0]}?"
    return f"there are: {', '.join(names)}" if names else "there are none"


def plain_table(title: str) -> Table:
    """Return a table without a frame, so that 80 columns are enough; the title is not markup."""
    return Table(
        title=escape(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )


def print_json(data: object) -> None:
    """Write one JSON document to standard output."""
    ascii_only = "utf" not in (sys.stdout.encoding or "").lower()
    text = json.dumps(data, indent=2, ensure_ascii=ascii_only)
    click.echo(re.sub(f"[{OBEYED}]", lambda found: f"\\u{ord(found[0]):04x}", text))


def read_json(text: str, what: str) -> object:
    """Read JSON from an option, or from standard input where it is ``-``.

    Raises:
        click.BadParameter: it is not JSON.
    """
    raw = sys.stdin.read() if text == "-" else text
    try:
        return json.loads(raw)
    except ValueError as exc:
        msg = f"{what} is not JSON: {exc}"
        raise click.BadParameter(msg) from exc


class Duration(click.ParamType):  # type: ignore[type-arg]
    """``30``, ``30s``, ``5m``, ``2h`` or ``1d``, in seconds."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Parse the text."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", str(value).strip())
        if found is None:
            self.fail(f"{value!r} is not a duration; write 30s, 5m, 2h or 1d", param, ctx)
        seconds = float(found[1]) * _UNITS[found[2] or "s"]
        if seconds > MAX_DURATION_S:
            self.fail(f"{value!r} is longer than {MAX_DURATION_S:g} s", param, ctx)
        return seconds


DURATION = Duration()


def ago(seconds: float | None) -> str:
    """Format an age in its largest unit."""
    if seconds is None:
        return "-"
    for unit, size in reversed(_UNITS.items()):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.1f}s"


def setup_logging(config: WorkerConfig) -> None:
    """Write log records to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)-8s %(name)s: %(message)s"))
    logging.basicConfig(level=config.log_level.upper(), handlers=[handler], force=True)
