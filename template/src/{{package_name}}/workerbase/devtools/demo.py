# Owned by arq-worker-template: `copier update` overwrites edits; write a demo of your own instead.
"""The demo: a real server, a real worker, and messages of every fate."""

import asyncio
import logging
import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import cast

from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from .. import keys, wire
from ..base import BaseArqWorkerSettings
from ..config import WorkerConfig
from ..connect import connect
from ..delivery.streams import publish
from ..dlq import SetAside
from ..errors import PermanentError
from ..events import Event, EventContext, EventRouter, Head
from ..lease import Delivery
from ..runner import serve
from ..settle import Outcome
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
    "retried": ("yellow", "failed, will be retried"),
    "dead_lettered": ("red", "dead-lettered"),
    "parked": ("magenta", "parked: no handler knows this type yet"),
    "held": ("yellow", "held back"),
    "lease_lost": ("yellow", "left to another worker"),
    "deleted": ("red", "deleted by somebody"),
}

_FINAL: tuple[Outcome, ...] = ("handled", "dead_lettered", "parked")


async def _publish_all(redis: RedisClient, messages: int) -> dict[str, int]:
    """Publish messages of each kind; return how many of which."""
    few = max(1, messages // 12)
    good = messages - 3 * few - 2
    plan: dict[str, list[Order] | list[Refund]] = {
        "that just work": [Order(number=i) for i in range(1, good + 1)],
        "that fail twice, then work": [Order(number=100 + i, fails=2) for i in range(few)],
        "that never work": [Order(number=200 + i, fails=99) for i in range(few)],
        "that cannot work (permanent error)": [Refund(number=300 + i) for i in range(few)],
    }
    for events in plan.values():
        await publish(redis, *events)
    strange = ({"type": "order", "data": '{"number": "many"}'}, {"type": "holiday", "data": "{}"})
    for payload in strange:
        await redis.execute_command("XADD", STREAM, "*", *wire.flatten(payload))
    return {
        **{kind: len(events) for kind, events in plan.items()},
        "with an invalid payload": 1,
        "of an unknown type": 1,
    }


class _Screen:
    """Shows each outcome as it happens and counts the final ones."""

    def __init__(self, console: Console, expected: int, stop: asyncio.Event) -> None:
        self.counts: Counter[Outcome] = Counter()
        self.recovered = 0
        self._console = console
        self._expected = expected
        self._stop = stop
        self._start = time.monotonic()

    def __call__(
        self, outcome: Outcome, _: Delivery, head: Head, error: BaseException | None
    ) -> None:
        self.counts[outcome] += 1
        self.recovered += outcome == "handled" and head.attempt > 1
        color, words = _LOOKS[outcome]
        name = (head.event_type or b"?").decode(errors="replace")
        why = f"  {type(error).__name__}: {error}" if error else ""
        self._console.print(
            f"[dim]{time.monotonic() - self._start:5.1f} s[/dim]  {name:<8} "
            f"[dim]{head.data.decode(errors='replace'):<28} try {head.attempt}[/dim]  "
            f"[{color}]{words}[/{color}][dim]{why}[/dim]",
            soft_wrap=True,
        )
        if sum(self.counts[final] for final in _FINAL) >= self._expected:
            self._stop.set()


async def run_demo(console: Console, messages: int) -> int:
    """Run the demo; return the exit code.

    Raises:
        NoServerError: there is no Redis server to start.
    """
    # The screen tells all that the log would.
    logging.getLogger(__name__.rpartition(".devtools")[0]).setLevel(logging.CRITICAL)
    with Server() as server, tempfile.TemporaryDirectory() as folder:
        console.print(f"[bold]{server.version}[/bold] ({server.binary.source}), port {server.port}")
        demo_config = WorkerConfig(
            redis_dsn=SecretStr(server.dsn),
            health_file=str(Path(folder) / "healthy"),
            retry_backoff=0.5,
            retry_backoff_max=2.0,
            poll_delay=0.1,
            consumer_group="demo",
        )
        demo_router = router

        class DemoSettings(BaseArqWorkerSettings):
            config = demo_config
            router = demo_router

        redis = connect(demo_config.location)
        client = cast("RedisClient", redis)
        try:
            published = await _publish_all(client, messages)
            stop = asyncio.Event()
            screen = _Screen(console, messages, stop)
            console.print(f"{messages} messages published; the worker (pid {os.getpid()}) starts\n")
            async with asyncio.timeout(TIMEOUT_S):
                await serve(DemoSettings, stop, screen)
            return await _summary(console, client, published, screen)
        finally:
            await redis.aclose(close_connection_pool=True)


async def _summary(
    console: Console, redis: RedisClient, published: dict[str, int], screen: _Screen
) -> int:
    table = Table(title="\nEvery message accounted for", title_justify="left")
    table.add_column("published")
    table.add_column("", justify="right")
    table.add_column("what became of them")
    table.add_column("", justify="right")
    # Ask Redis, and not only the worker's own count.
    dead, parked = SetAside.dlq(redis, STREAM), SetAside(redis, keys.parked(STREAM))
    handled = screen.counts["handled"]
    fates = {
        "handled at the first try": handled - screen.recovered,
        "handled after retries": screen.recovered,
        **{f"in {dead.name}: {g.reason} ({g.error})": g.count for g in await dead.groups()},
        f"in {parked.name}, until a worker knows the type": await parked.size(),
    }
    left, right = list(published.items()), list(fates.items())
    for row in range(max(len(left), len(right))):
        cells = [*(left[row] if row < len(left) else ("", ""))]
        cells += right[row] if row < len(right) else ("", "")
        table.add_row(*map(str, cells))
    total_in, total_out = sum(published.values()), sum(fates.values())
    table.add_section()
    table.add_row("total", str(total_in), "total", str(total_out))
    console.print(table)
    console.print(f"retries in between: {screen.counts['retried']}")
    if total_in != total_out:
        console.print("[red]The numbers do not add up: this is a bug, please report it.[/red]")
        return 1
    return 0
