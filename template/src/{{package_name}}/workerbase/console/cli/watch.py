"""``status --watch``: the overview as a live screen."""

import asyncio
import contextlib
import math
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import cast

import click
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.console import Group as Stack
from rich.live import Live
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from ...broker.enqueue import QueueClient
from ...broker.redis_errors import OUTAGE_ERRORS
from ...cli.app import App, pass_app
from ...cli.status import pause_line, show_status
from ...cli.terminal import ago
from ...engine.sources import MAX_COUNTED, SourceStatus
from ...engine.text import printable
from ..overview import MAX_EXAMINED, Overview
from ..sampler import INTERVAL_S, TIMEOUT_S, Sampler, rates

MAX_PAUSES = 3
"""Number of pauses that are shown."""
MAX_SAMPLES = 60
"""Number of samples that are kept, and drawn where there is room."""
WIDE_COLUMNS = 120
"""Width from which sections are side by side, and tables have more columns."""
BLOCKS = "▁▂▃▄▅▆▇█"

Cell = str | Text


@dataclass(frozen=True, slots=True)
class Section:
    """A table with a title, cut to the available lines."""

    title: str
    """Empty for a table with only its head."""
    columns: Sequence[str]
    """Those that begin with ``>`` are aligned right and never cut."""
    rows: Sequence[Sequence[Cell]]
    total: int
    """Number of rows, those that are not known included."""

    @property
    def overhead(self) -> int:
        """Number of lines that it takes in addition to its rows."""
        return bool(self.title) + bool(self.rows)

    def draw(self, count: int) -> RenderableType:
        """Draw it with ``count`` rows."""
        shown = f"{count} shown" if count < self.total else ""
        first, *others = self.columns
        columns = [first if self.title or not shown else f"{first} ({shown})", *others]
        parts: list[RenderableType] = []
        if self.title:
            title = _line("; ".join(filter(None, (self.title, shown))), "bold")
            parts.append(Rule(title, align="left", style="dim"))
        if self.rows:
            parts.append(_table(columns, self.rows[:count]))
        return Stack(*parts)


class View:
    """The screen; it fits the size that the terminal has when it is drawn."""

    def __init__(self, where: str, every: float) -> None:
        self._every = every
        self._where = where
        self._problem = ""
        # Replaced and never changed, since a thread of Rich draws them.
        self._samples: tuple[Overview, ...] = ()

    def add(self, found: Overview) -> None:
        """Add a sample."""
        self._samples = (*self._samples, found)[-MAX_SAMPLES:]
        self._problem = ""

    def failed(self, error: BaseException) -> None:
        """Show why there is no new sample; the last one stays."""
        self._problem = str(error) or f"no answer within {TIMEOUT_S:g} s"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it."""
        samples = self._samples
        head = self._head(samples)
        yield from head
        if not samples:
            return
        found, wide = samples[-1], options.max_width >= WIDE_COLUMNS
        room = (options.height or console.height) - len(head)
        left, right = [_workers(found), _in_flight(found)], [_later(found)]
        dead = _dead(found, wide=wide)
        # Any number of streams leaves a row for each other section.
        least = sum(s.overhead + min(1, len(s.rows)) for s in (*left, *right, dead))
        sources = _sources(samples, max(1, room - 1 - least), wide=wide)
        yield sources.draw(len(sources.rows))
        room -= sources.overhead + len(sources.rows)
        if not wide:
            yield _fit([*left, *right, dead], room)
            return
        bottom = min(dead.overhead + len(dead.rows), room // 2)
        yield _beside(_fit(left, room - bottom), _fit(right, room - bottom))
        yield _fit([dead], bottom)

    def _head(self, samples: Sequence[Overview]) -> list[Text]:
        if not samples:
            head = [_line(self._where, "bold")]
        else:
            at = time.strftime("%H:%M:%S", time.localtime(samples[-1].at))
            server = f"{samples[-1].status.server} at {self._where}"
            head = [_line(f"{at}  {server}  every {self._every:g} s, Ctrl-C exits", "bold")]
            pauses = samples[-1].status.pauses
            head += [_line(f"paused: {pause_line(one)}", "yellow") for one in pauses[:MAX_PAUSES]]
            if (more := len(pauses) - MAX_PAUSES) > 0:
                head.append(_line(f"paused: {more:,} more", "yellow"))
        if self._problem:
            old = f"; last read {ago(time.time() - samples[-1].at)} ago" if samples else ""
            head += [
                _line(f"Redis cannot be read; retrying{old}", "bold red"),
                _line(self._problem, "red"),
            ]
        return head


@click.command()
@click.option("--json", "as_json", is_flag=True)
@click.option("--watch", "watching", is_flag=True, help="Show a live screen with more detail.")
@click.option(
    "--every",
    type=click.FloatRange(0.2),
    metavar="SECONDS",
    help=f"Interval of --watch.  [default: {INTERVAL_S:g}]",
)
@pass_app
def status(app: App, as_json: bool, watching: bool, every: float | None) -> None:
    """Show what waits, what is in work, and dead letters."""
    if not watching:
        if every is not None:
            raise click.UsageError("--every requires --watch")
        show_status(app, as_json=as_json)
        return
    if as_json:
        raise click.UsageError("--watch draws a screen; use --json without it, as often as needed")
    if not sys.stdout.isatty():
        raise click.UsageError("--watch requires a terminal; without one, omit it or use --json")
    follow(app, every or INTERVAL_S)


def follow(app: App, every: float) -> None:
    """Show a sample every ``every`` seconds, until Ctrl-C."""
    settings = app.settings()
    view = View(str(settings.config.dsn), every)

    async def work(redis: QueueClient) -> None:
        sampler = Sampler(lambda: redis, settings, every)

        async def sample() -> Overview:
            return (await sampler.current()).overview

        with Live(view, console=app.console, screen=True, refresh_per_second=2):
            await repeat(view, sample, every)

    with contextlib.suppress(KeyboardInterrupt):
        app.with_redis(work)


async def repeat(view: View, sample: Callable[[], Awaitable[Overview]], every: float) -> None:
    """Take samples until cancelled."""
    task = cast("asyncio.Task[None]", asyncio.current_task())
    # redis-py waits with asyncio.wait_for, which swallows a Ctrl-C that comes with the result.
    while not task.cancelling():
        await step(view, sample)
        await asyncio.sleep(0 if task.cancelling() else every)


async def step(view: View, sample: Callable[[], Awaitable[Overview]]) -> None:
    """Take one sample; an outage is shown until Redis is back."""
    try:
        view.add(await sample())
    except OUTAGE_ERRORS as exc:
        view.failed(exc)


def spark(values: Sequence[int], width: int) -> str:
    """Draw the newest values as blocks: the highest is a full block, and only 0 is the lowest."""
    shown = values[-width:]
    most = max(shown, default=0) or 1
    return "".join(BLOCKS[math.ceil(value / most * 7)] for value in shown).rjust(width)


def share(wanted: Sequence[int], room: int) -> list[int]:
    """Distribute lines, one to each in turn, until all have what they want or none are left."""
    given = [0] * len(wanted)
    while room > 0 and given != list(wanted):
        for index, want in enumerate(wanted):
            if room > 0 and given[index] < want:
                given[index] += 1
                room -= 1
    return given


def _fit(sections: Sequence[Section], room: int) -> RenderableType:
    counts = share([len(s.rows) for s in sections], room - sum(s.overhead for s in sections))
    return Stack(*(section.draw(count) for section, count in zip(sections, counts, strict=True)))


def _beside(*parts: RenderableType) -> Table:
    grid = Table.grid(expand=True, padding=(0, 2, 0, 0), pad_edge=False)
    for _ in parts:
        grid.add_column(ratio=1)
    grid.add_row(*parts)
    return grid


def _line(text: str, style: str = "") -> Text:
    """Return text as one line."""
    return Text(printable(text, one_line=True), style, no_wrap=True, overflow="ellipsis")


def _number(number: float | None, style: str = "") -> Text:
    if not number:
        return Text("-" if number is None else "0", "dim")
    return Text(f"{number:,.1f}" if 0 < number < 1 else f"{number:,.0f}", style)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in columns:
        # Columns that may wrap shrink before the others; their lines are cut all the same.
        right = name.startswith(">")
        table.add_column(name.lstrip(">"), justify="right" if right else "left", no_wrap=right)
    for row in rows:
        table.add_row(*(_line(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def _sources(samples: Sequence[Overview], limit: int, *, wide: bool) -> Section:
    """List the streams, the busiest if there are too many, and the queue."""
    found, width = samples[-1], 40 if wide else 10

    def lag(values: Sequence[int], unknown: str = "") -> tuple[Cell, Cell]:
        return _number(values[-1]).append(unknown), Text(spark(values, width), "cyan")

    sources = list(enumerate(found.status.sources))
    streams = [item for item in sources if item[1].kind == "stream"]
    queues = [item for item in sources if item[1].kind == "queue"]
    room = max(0, limit - len(queues))
    if room < len(streams):
        streams.sort(key=lambda item: -item[1].waiting - (item[1].in_work or 0))
    rows: list[list[Cell]] = []
    speeds = rates(samples)
    for index, source in (*streams[:room], *queues):
        series = [sample.status.sources[index] for sample in samples]
        at_limit = source.waiting == MAX_COUNTED and source.delivered is None
        rows.append(
            [
                _source_name(source),
                *lag([one.waiting for one in series], "+" if at_limit else ""),
                _number(speeds[source.name].added),
                _number(speeds[source.name].settled),
                _number(found.jobs if source.kind == "queue" else source.in_work),
                _number(None) if source.kind == "queue" else ago(source.oldest_s),
                *([_number(source.parked, "yellow")] if wide else ()),
                _number(source.dead_letters, "red"),
            ]
        )
    columns = ("source", ">waiting", ">", ">in/s", ">out/s", ">in work", ">oldest")
    more = (">parked",) if wide else ()
    return Section("", (*columns, *more, ">DLQ"), rows, len(sources))


def _source_name(source: SourceStatus) -> str:
    return f"{source.name} (jobs)" if source.kind == "queue" else source.name


def _workers(found: Overview) -> Section:
    rows = [
        (
            worker.name,
            _number(worker.messages),
            _number(worker.jobs),
            ago(worker.quiet_s),
        )
        for worker in found.workers
    ]
    columns = ("worker", ">messages", ">jobs", ">quiet for")
    # An idle worker that reads no stream leaves no trace in Redis.
    reads = any(source.kind == "stream" for source in found.status.sources)
    name = "Workers" if reads else "Workers that have jobs"
    return Section(f"{name}: {len(rows):,}", columns, rows, len(rows))


def _in_flight(found: Overview) -> Section:
    rows = [
        (ago(item.age_s), item.what, item.id, _number(item.attempt), item.worker)
        for item in found.in_flight
    ]
    total = found.jobs + sum(source.in_work or 0 for source in found.status.sources)
    columns = (">age", "stream or function", "id", ">attempt", "worker")
    return Section(f"In flight: {total:,}, oldest first", columns, rows, total)


def _later(found: Overview) -> Section:
    later = found.later
    rows = [(ago(due.in_s), due.what, due.id, due.kind) for due in later.first]
    kinds = (
        (later.messages, "messages to retry"),
        (later.jobs, "jobs to retry"),
        (later.deferred, "deferred"),
    )
    said = ", ".join(f"{count:,} {name}" for count, name in kinds if count)
    of = f" of the first {later.examined:,}" if later.examined < later.total else ""
    title = f"Later: {later.total:,}" + (f" ({said}{of})" if said else "")
    return Section(title, (">in", "stream or function", "id", "kind"), rows, later.total)


def _dead(found: Overview, *, wide: bool) -> Section:
    groups = [(dead.source, group) for dead in found.dead for group in dead.groups]
    rows = [
        (
            _number(group.count),
            group.fingerprint,
            name,
            *((group.event_type, group.reason) if wide else ()),
            ago(max(0.0, found.at - group.newest)),
            group.error,
        )
        for name, group in sorted(groups, key=lambda item: -item[1].count)
    ]
    cut = any(dead.examined < dead.total for dead in found.dead)
    newest = f" (groups: of the newest {MAX_EXAMINED:,} of a queue)" if cut else ""
    title = f"Dead letters: {sum(dead.total for dead in found.dead):,}{newest}"
    more = ("type", "reason") if wide else ()
    columns = (">count", "error id", "stream or queue", *more, ">newest", "error")
    return Section(title, columns, rows, len(rows))
