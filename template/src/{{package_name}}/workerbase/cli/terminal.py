"""Input and output of a terminal: tables, ages, durations, JSON, and text that others wrote."""

import json
import logging
import re
import sys

import click
from rich import box
from rich.markup import escape
from rich.table import Table

from ..config import WorkerConfig
from ..engine import redact
from ..engine.human_input import UNITS, duration, moment
from ..engine.text import OBEYED
from ..process.log_format import PlainFormatter

MAX_COLUMNS = 10_000
"""Width of output that no terminal shows: what reads a pipe reads lines."""


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


def escape_what_does_not_fit() -> None:
    """Let standard output escape the characters that its encoding lacks, as standard error does."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)  # what replaces it may not have it
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def print_json(data: object) -> None:
    """Write one JSON document to standard output, with escapes where it cannot hold a character."""
    is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    text = json.dumps(data, indent=2, ensure_ascii=not is_unicode)
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
        try:
            return duration(str(value))
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


DURATION = Duration()


class Moment(click.ParamType):  # type: ignore[type-arg]
    """A date, or a date and time, in ISO 8601; local time unless it has an offset."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Parse the text; return Unix time."""
        try:
            return moment(str(value))
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


MOMENT = Moment()


def ago(seconds: float | None) -> str:
    """Format an age in its largest unit."""
    if seconds is None:
        return "-"
    for unit, size in reversed(UNITS.items()):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.1f}s"


class _Formatter(PlainFormatter):
    """Hides secrets and payloads."""

    def format(self, record: logging.LogRecord) -> str:
        return redact.text(super().format(redact.record(record)))


def setup_logging(config: WorkerConfig) -> None:
    """Write log records to standard error, without secrets."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)-8s %(name)s: %(message)s"))
    logging.basicConfig(level=config.log_level.upper(), handlers=[handler], force=True)
