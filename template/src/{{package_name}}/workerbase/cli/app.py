# Owned by arq-worker-template: `copier update` overwrites edits; add commands in `__main__.py`.
"""What the commands share: the settings, a connection, output."""

import asyncio
import difflib
import importlib
import json
import logging
import os
import re
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import click
from arq.connections import ArqRedis
from redis.exceptions import RedisError
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..config import WorkerConfig
from ..errors import LONGEST_S, SettingsError
from ..events import EventRouter
from ..settings import BaseArqWorkerSettings

T = TypeVar("T")

UNLIMITED = 10_000
_OBEYED = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""Characters that a terminal obeys, but for line breaks and tabs: in a class of a pattern."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class App:
    """The worker that the command line belongs to."""

    def __init__(self, settings: str) -> None:
        self.settings_path = settings
        self.console = Console(highlight=False)
        if not self.console.is_terminal and "COLUMNS" not in os.environ:
            self.console.width = UNLIMITED  # what reads a pipe reads lines

    def settings(self) -> type[BaseArqWorkerSettings]:
        """Import the worker's settings.

        Raises:
            SettingsError: there are none; whatever else the import raises is passed on.
        """
        module, _, name = self.settings_path.partition(":")
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ModuleNotFoundError as exc:
            if not f"{module}.".startswith(f"{exc.name}."):
                raise  # the project's own import is broken: its traceback says where
            msg = f"there is no module {exc.name!r}, where {self.settings_path} should be"
            raise SettingsError(msg) from exc
        if not (isinstance(found, type) and issubclass(found, BaseArqWorkerSettings)):
            msg = f"{self.settings_path} is no subclass of BaseArqWorkerSettings"
            raise SettingsError(msg)
        return found

    @property
    def config(self) -> WorkerConfig:
        """The worker's configuration."""
        return self.settings().config or WorkerConfig.load()

    @property
    def router(self) -> EventRouter:
        """The worker's stream handlers."""
        return self.settings().router or EventRouter()

    def with_redis(self, work: Callable[[ArqRedis], Awaitable[T]]) -> T:
        """Run ``work`` with an open client.

        Raises:
            click.ClickException: Redis does not answer, or refuses.
        """
        config = self.config

        async def main() -> T:
            redis = config.connect()
            try:
                return await work(redis)
            finally:
                await redis.aclose(close_connection_pool=True)

        try:
            return asyncio.run(main())
        except (RedisError, OSError) as exc:
            msg = f"Redis at {config.location}, as WORKER_REDIS_DSN says: {exc}"
            raise click.ClickException(msg) from exc


pass_app = click.make_pass_decorator(App)


def near(name: str, known: Iterable[str]) -> str:
    """Say what ``name`` was probably meant to be, or else what there is."""
    names = sorted(known)
    found = difflib.get_close_matches(name, names, 1)
    if found:
        return f"did you mean {found[0]}?"
    return f"there are: {', '.join(names)}" if names else "there are none"


def plain_table(title: str) -> Table:
    """Return a table without frame, so that eighty columns are enough; the title is not markup."""
    return Table(
        title=escape(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )


def printable(text: str, *, one_line: bool = False) -> str:
    """Write out what a terminal would obey, or be fooled by: others wrote ``text``.

    That is escape sequences, what turns the direction of writing, and lone surrogates. With
    ``one_line`` there are spaces where it has line breaks and tabs.
    """
    line = re.sub(r"\s", " ", text) if one_line else text
    return re.sub(f"[{_OBEYED}]", lambda found: repr(found[0])[1:-1], line)


def print_json(data: object) -> None:
    """Write one JSON document to standard output."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    click.echo(re.sub(f"[{_OBEYED}]", lambda found: f"\\u{ord(found[0]):04x}", text))


def read_json(text: str, what: str) -> object:
    """Read JSON from an option, or from standard input where it is ``-``.

    Raises:
        click.BadParameter: it is no JSON.
    """
    raw = sys.stdin.read() if text == "-" else text
    try:
        return json.loads(raw)
    except ValueError as exc:
        msg = f"{what} is no JSON: {exc}"
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
            self.fail(f"{value!r} is no duration; write 30s, 5m, 2h or 1d", param, ctx)
        seconds = float(found[1]) * _UNITS[found[2] or "s"]
        if seconds > LONGEST_S:
            self.fail(f"{value!r} is longer than {LONGEST_S:g} s", param, ctx)
        return seconds


DURATION = Duration()


def ago(seconds: float | None) -> str:
    """Write an age in its largest unit."""
    if seconds is None:
        return "-"
    for unit, size in reversed(_UNITS.items()):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.1f}s"


def setup_logging(config: WorkerConfig) -> None:
    """Write log records to standard error."""
    logging.basicConfig(
        level=config.log_level.upper(),
        format="%(asctime)s %(levelname)-8s %(name)s: %(message)s",
        stream=sys.stderr,
        force=True,
    )
