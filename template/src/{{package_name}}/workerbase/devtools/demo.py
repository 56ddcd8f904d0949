"""The demo: a real server, a real worker, and messages (or jobs) with every kind of outcome."""

import asyncio
import logging
import re
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import cast

from pydantic import SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..broker.client import connect
from ..broker.enqueue import QueueClient
from ..config import WorkerConfig
from ..inspector.dead_letters import DeadLetterQueue
from ..monitor import Monitor, Outcome, Work
from ..process.runner import serve
from ..process.settings import resolved_settings
from ..testing.redis_server import Server
from ..types import RedisClient
from .chaos_worker import settings_of
from .workload import Item, ItemKind, Workload, workloads

MAX_ATTEMPTS = 5
TIMEOUT_S = 120.0

_LOOKS: dict[Outcome, tuple[str, str]] = {
    "handled": ("green", "handled"),
    "retried": ("yellow", "retry later"),
    "dead_lettered": ("red", "dead-lettered"),
    "failed": ("red", "failed"),
    "parked": ("magenta", "parked"),
    "deferred": ("yellow", "deferred"),
    "skipped": ("dim", "skipped"),
    "lease_lost": ("yellow", "lease lost"),
    "deleted": ("red", "deleted"),
    "aborted": ("yellow", "aborted"),
}

WORK, FAIL_TWICE, FAIL = "succeed", "fail twice, then succeed", "fail every time"
PERMANENT, INVALID, UNKNOWN = (
    "raise PermanentError",
    "have an invalid payload",
    "have an unknown type",
)
_KINDS: dict[str, ItemKind] = {
    WORK: "good",
    FAIL_TWICE: "flaky",
    FAIL: "toxic",
    PERMANENT: "permanent",
}

_FINAL: tuple[Outcome, ...] = ("handled", "dead_lettered", "parked")


class _Isolated(WorkerConfig):
    """Reads neither variables nor ``.env``: the demo is the same everywhere."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def _config(workload: Workload, **values: object) -> WorkerConfig:
    kind = workload.config_type
    bases = (_Isolated,) if kind is WorkerConfig else (_Isolated, kind)
    config: type[WorkerConfig] = type("DemoConfig", bases, {})
    return config.model_validate(values)


async def _send_all(client: QueueClient, workload: Workload, total: int) -> dict[str, int]:
    """Send items of each kind; return how many of which."""
    few = max(1, total // 12)
    strange = await workload.send_strange(client)
    good = total - 3 * few - sum(strange.values())
    counts = {WORK: good, FAIL_TWICE: few, FAIL: few, PERMANENT: few}
    number = 0
    for kind, count in counts.items():
        numbers = range(number + 1, number + count + 1)
        number += count
        items = [Item(number=n, kind=_KINDS[kind], seconds=0.05) for n in numbers]
        await workload.send(client, items)
    names = {"invalid": INVALID, "unknown": UNKNOWN}
    return counts | {names[name]: count for name, count in strange.items()}


class _Screen(Monitor):
    """Shows each outcome as it happens, and counts the final ones."""

    def __init__(self, console: Console, kind: str, expected: int, stop: asyncio.Event) -> None:
        self.counts: Counter[Outcome] = Counter()
        self.recovered = 0
        self._console = console
        self._kind = kind
        self._expected = expected
        self._stop = stop
        self._start = time.monotonic()

    def on_finished(
        self,
        work: Work,
        outcome: Outcome,
        error: BaseException | None,
        seconds: float,  # noqa: ARG002
    ) -> None:
        """Show an outcome."""
        if work.kind != self._kind:
            return  # a job that only puts a message back
        self.counts[outcome] += 1
        self.recovered += outcome == "handled" and work.attempt > 1
        color, words = _LOOKS[outcome]
        number = re.search(rb'"number": ?"?(\w+)', work.data)
        item = number[1].decode() if number else work.id.removeprefix("item-")[:6]
        line = Text.assemble(
            (f"{time.monotonic() - self._start:5.1f} s  ", "dim"),
            f"{work.name} {item} ".ljust(15),
            (f"attempt {work.attempt}  ", "dim"),
            (words.ljust(15), color),
            (f"{type(error).__name__}: {error}" if error else "", "dim"),
        )
        self._console.print(line, no_wrap=True, overflow="ellipsis")
        if self.complete:
            self._stop.set()

    @property
    def complete(self) -> bool:
        """Whether everything has reached its end."""
        return sum(self.counts[final] for final in _FINAL) >= self._expected


async def run_demo(console: Console, total: int, program: str) -> int:
    """Run the demo; return the exit code.

    Args:
        console: where to show it.
        total: number of messages, or jobs.
        program: name of the command, for what to try next.

    Raises:
        NoServerError: there is no Redis server to start.
    """
    # The screen shows all that the log would.
    logging.getLogger(__name__.rpartition(".devtools")[0]).setLevel(logging.CRITICAL)
    logging.getLogger("arq").setLevel(logging.CRITICAL)
    workload, *_ = workloads()
    with Server() as server, tempfile.TemporaryDirectory() as folder:
        console.print(
            f"[bold]{server.version}[/bold], a real server ({server.binary.source}), "
            f"on port {server.port} until the demo ends",
            soft_wrap=True,
        )
        config = _config(
            workload,
            redis_dsn=SecretStr(server.dsn),
            health_file=str(Path(folder) / "healthy"),
            retry_backoff=0.5,
            retry_backoff_max=2.0,
            poll_delay=0.1,
            **workload.demo_settings,
        )
        settings = resolved_settings(settings_of([workload], MAX_ATTEMPTS, config))
        client = connect(config.dsn)
        try:
            sent = await _send_all(client, workload, total)
            stop = asyncio.Event()
            screen = _Screen(console, workload.kind, total, stop)
            verb = "published" if workload.kind == "message" else "enqueued"
            console.print(f"{total} {workload.name} {verb}; the worker starts\n")
            async with asyncio.timeout(TIMEOUT_S):
                await serve(settings, stop, [screen])
            if not screen.complete:
                console.print("stopped before the end")
                return 1
            return await _summary(console, client, workload, sent, screen, program=program)
        finally:
            await client.aclose(close_connection_pool=True)


async def _summary(
    console: Console,
    client: QueueClient,
    workload: Workload,
    sent: dict[str, int],
    screen: _Screen,
    *,
    program: str,
) -> int:
    # What Redis has, and not only what the worker has counted.
    redis = cast("RedisClient", client)
    dead = DeadLetterQueue.of_source(redis, workload.source)
    parked = DeadLetterQueue.parked(redis, workload.source)
    reasons: Counter[str] = Counter()
    async for entry in dead.scan():
        reasons[entry.payload.get("_reason", "")] += 1
    handled = screen.counts["handled"]
    outcomes = {
        WORK: (handled - screen.recovered, "handled at the first attempt"),
        FAIL_TWICE: (screen.recovered, "handled after retries"),
        FAIL: (reasons["retries"], f"dead-lettered after {MAX_ATTEMPTS} attempts"),
        PERMANENT: (reasons["permanent"], "dead-lettered at once"),
        INVALID: (reasons["invalid"], "dead-lettered at once"),
        UNKNOWN: (await parked.size(), "parked until a worker knows the type"),
    }
    table = Table(box=box.SIMPLE_HEAD, show_footer=True)
    shown = {kind: outcomes[kind] for kind in sent}
    table.add_column("", str(sum(sent.values())), justify="right")
    table.add_column(f"{workload.name} that", "sent")
    table.add_column("", str(sum(count for count, _ in shown.values())), justify="right")
    table.add_column("were", "accounted for")
    for kind, (count, outcome) in shown.items():
        table.add_row(str(sent[kind]), kind, str(count), outcome)
    console.print(table)
    if any(sent[kind] != count for kind, (count, _) in shown.items()):
        console.print("[red]The numbers do not add up: this is a bug, please report it.[/red]")
        return 1
    lesson = _LESSON if workload.kind == "message" else _JOB_LESSON
    console.print(lesson.format(retries=screen.counts["retried"], program=program))
    return 0


_LESSON = """\
[bold]Every message is accounted for.[/bold] What to know:

 • A message is acknowledged only after it was handled, is due for a retry, or
   is in the dead-letter queue (DLQ). A crash loses none, but may repeat one:
   make handlers idempotent ([bold]ctx.message_id[/bold] stays the same).
 • An exception means: try again, after a backoff that grows with each attempt
   ({retries} retries here). PermanentError means: do not.
 • Examine dead letters, and send them back when their cause is gone:
   [bold]dlq ls[/bold], then [bold]dlq show[/bold] and [bold]dlq replay[/bold].

Next: write your own in handlers.py, and run the worker on a Redis:

   [bold]docker compose -f compose.yaml -f compose.dev.yaml up --detach redis
   uv run {program} run[/bold]"""

_JOB_LESSON = """\
[bold]Every job is accounted for.[/bold] What to know:

 • A job stays in Redis until it has ended, is due for a retry, or is in the
   dead-letter queue (DLQ). A crash loses none, but may repeat one: make tasks
   idempotent.
 • An exception in a task means: try again, after a backoff that grows with
   each attempt ({retries} retries here). PermanentError means: do not.
 • Examine dead letters, and send them back when their cause is gone:
   [bold]dlq ls[/bold], then [bold]dlq show[/bold] and [bold]dlq replay[/bold].

Next: write your own in tasks.py, and run the worker on a Redis:

   [bold]docker compose -f compose.yaml -f compose.dev.yaml up --detach redis
   uv run {program} run[/bold]"""
