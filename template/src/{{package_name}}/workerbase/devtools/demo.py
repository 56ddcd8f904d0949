# Owned by arq-worker-template: `copier update` overwrites edits; write a demo of your own instead.
"""The demo: a real server, a real worker, and messages of every fate."""

import asyncio
import logging
import re
import tempfile
import time
from collections import Counter
from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import keys, wire
from ..config import WorkerConfig
from ..connect import connect
from ..delivery.streams import publish
from ..dlq import SetAside
from ..errors import PermanentError
from ..events import Event, EventContext, EventRouter
from ..monitor import Monitor, Outcome, Work
from ..runner import serve
from ..settings import BaseArqWorkerSettings
from ..types import RedisClient
from .server import Server

STREAM = "demo"
TIMEOUT_S = 120.0

router = EventRouter()


class Order(Event, type="order", stream=STREAM):
    """An order; ``fails`` tells how often its handling fails before it works."""

    number: int
    fails: int = 0


class Refund(Event, type="refund", stream=STREAM):
    """A refund for an account that does not exist: no use to try again."""

    number: int


@router.on(Order)
async def ship(event: Order, ctx: EventContext) -> None:
    """Ship an order, if the warehouse answers."""
    await asyncio.sleep(0.05)
    if ctx.attempt <= event.fails:
        msg = "the warehouse does not answer"
        raise TimeoutError(msg)


@router.on(Refund)
async def refund(event: Refund, ctx: EventContext) -> None:
    """Refuse the refund."""
    msg = "no such account"
    raise PermanentError(msg)


_LOOKS: dict[Outcome, tuple[str, str]] = {
    "handled": ("green", "handled"),
    "retried": ("yellow", "retry later"),
    "dead_lettered": ("red", "dead-lettered"),
    "parked": ("magenta", "parked"),
    "held": ("yellow", "held back"),
    "lease_lost": ("yellow", "lease lost"),
    "deleted": ("red", "deleted"),
}

WORK, FAIL_TWICE, FAIL = "just work", "fail twice, then work", "fail every time"
PERMANENT, INVALID, UNKNOWN = (
    "raise PermanentError",
    "have an invalid payload",
    "have an unknown type",
)

_FINAL: tuple[Outcome, ...] = ("handled", "dead_lettered", "parked")


class DemoConfig(WorkerConfig):
    """Reads no variables and no ``.env``: the demo is the same everywhere."""

    @classmethod
    def settings_customise_sources(  # noqa: D102
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


async def _publish_all(redis: RedisClient, messages: int) -> dict[str, int]:
    """Publish messages of each kind; return how many of which."""
    few = max(1, messages // 12)
    good = messages - 3 * few - 2
    plan: dict[str, list[Order] | list[Refund]] = {
        WORK: [Order(number=i) for i in range(1, good + 1)],
        FAIL_TWICE: [Order(number=good + i, fails=2) for i in range(1, few + 1)],
        FAIL: [Order(number=good + few + i, fails=99) for i in range(1, few + 1)],
        PERMANENT: [Refund(number=i) for i in range(1, few + 1)],
    }
    for events in plan.values():
        await publish(redis, *events)
    strange = ({"type": "order", "data": '{"number": "many"}'}, {"type": "holiday", "data": "{}"})
    for payload in strange:
        await redis.execute_command("XADD", STREAM, "*", *wire.flatten(payload))
    return {kind: len(events) for kind, events in plan.items()} | {INVALID: 1, UNKNOWN: 1}


class _Screen(Monitor):
    """Shows each outcome as it happens and counts the final ones."""

    def __init__(self, console: Console, expected: int, stop: asyncio.Event) -> None:
        self.counts: Counter[Outcome] = Counter()
        self.recovered = 0
        self._console = console
        self._expected = expected
        self._stop = stop
        self._start = time.monotonic()

    def ended(
        self,
        work: Work,
        outcome: Outcome,
        error: BaseException | None,
        seconds: float,  # noqa: ARG002
    ) -> None:
        """Show it."""
        if work.kind == "job":
            return  # it only puts a message back
        self.counts[outcome] += 1
        self.recovered += outcome == "handled" and work.attempt > 1
        color, words = _LOOKS[outcome]
        number = re.search(rb'"number": ?"?(\w+)', work.data)
        line = Text.assemble(
            (f"{time.monotonic() - self._start:5.1f} s  ", "dim"),
            f"{work.name} {number[1].decode() if number else ''}".ljust(14),
            (f"try {work.attempt}  ", "dim"),
            (words.ljust(15), color),
            (f"{type(error).__name__}: {error}" if error else "", "dim"),
        )
        self._console.print(line, no_wrap=True, overflow="ellipsis")
        if self.complete:
            self._stop.set()

    @property
    def complete(self) -> bool:
        """Whether all messages have come to their end."""
        return sum(self.counts[final] for final in _FINAL) >= self._expected


async def run_demo(console: Console, messages: int, program: str) -> int:
    """Run the demo; return the exit code.

    Args:
        console: where to show it.
        messages: how many to publish.
        program: the command line's name, for what to try next.

    Raises:
        NoServerError: there is no Redis server to start.
    """
    # The screen tells all that the log would.
    logging.getLogger(__name__.rpartition(".devtools")[0]).setLevel(logging.CRITICAL)
    with Server() as server, tempfile.TemporaryDirectory() as folder:
        console.print(
            f"[bold]{server.version}[/bold], a real server ({server.binary.source}), "
            f"on port {server.port} until the demo ends",
            soft_wrap=True,
        )
        demo_config = DemoConfig(
            redis_dsn=SecretStr(server.dsn),
            health_file=str(Path(folder) / "healthy"),
            retry_backoff=0.5,
            retry_backoff_max=2.0,
            poll_delay=0.1,
            consumer_group="demo",
            # In the end only messages are left that fail, which is no outage to wait for.
            breaker_threshold=1_000_000,
        )
        demo_router = router

        class DemoSettings(BaseArqWorkerSettings):
            config = demo_config
            router = demo_router

        redis = connect(demo_config.location)
        try:
            published = await _publish_all(redis, messages)
            stop = asyncio.Event()
            screen = _Screen(console, messages, stop)
            console.print(f"{messages} messages published; the worker starts\n")
            async with asyncio.timeout(TIMEOUT_S):
                await serve(DemoSettings, stop, [screen])
            if not screen.complete:
                console.print("stopped before the end")
                return 1
            return await _summary(console, redis, published, screen, program)
        finally:
            await redis.aclose(close_connection_pool=True)


async def _summary(
    console: Console, redis: RedisClient, published: dict[str, int], screen: _Screen, program: str
) -> int:
    # Ask Redis, and not only the worker's own count.
    dead, parked = SetAside.dlq(redis, STREAM), SetAside(redis, keys.parked(STREAM))
    reasons: Counter[str] = Counter()
    for group in await dead.groups():
        reasons[group.reason] += group.count
    handled, tries = screen.counts["handled"], WorkerConfig.model_fields["max_retries"].default
    fates = {
        WORK: (handled - screen.recovered, "handled at the first try"),
        FAIL_TWICE: (screen.recovered, "handled after retries"),
        FAIL: (reasons["retries"], f"dead-lettered after {tries} tries"),
        PERMANENT: (reasons["permanent"], "dead-lettered at once"),
        INVALID: (reasons["invalid"], "dead-lettered at once"),
        UNKNOWN: (await parked.size(), "parked until a worker knows the type"),
    }
    table = Table(box=box.SIMPLE_HEAD, show_footer=True)
    total_in, total_out = sum(published.values()), sum(count for count, _ in fates.values())
    table.add_column("", str(total_in), justify="right")
    table.add_column("messages that", "published")
    table.add_column("", str(total_out), justify="right")
    table.add_column("were", "accounted for")
    for kind, (count, fate) in fates.items():
        table.add_row(str(published[kind]), kind, str(count), fate)
    console.print(table)
    if any(published[kind] != count for kind, (count, _) in fates.items()):
        console.print("[red]The numbers do not add up: this is a bug, please report it.[/red]")
        return 1
    console.print(_LESSON.format(retries=screen.counts["retried"], program=program))
    return 0


_LESSON = """\
[bold]Every message is accounted for.[/bold] What to know:

 • A message is acknowledged only after it was handled, is due for a retry, or
   is in the dead-letter queue (DLQ). A crash loses none, but may repeat one:
   make handlers idempotent ([bold]ctx.message_id[/bold] stays the same).
 • An exception means: try again, after a backoff that grows with each try
   ({retries} retries here). PermanentError means: do not.
 • Look at dead letters and send them back when their cause is gone:
   [bold]{program} dlq ls[/bold], then [bold]dlq show[/bold] and [bold]dlq replay[/bold].

Next: write your own in handlers.py, then [bold]{program} run[/bold]."""
