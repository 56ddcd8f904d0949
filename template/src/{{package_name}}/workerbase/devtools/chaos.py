"""The chaos run: workers are killed and Redis is restarted under load; nothing may be lost.

The setting follows docket's chaos harness (10 workers, 20,000 tasks, a chance of a fault every
250 ms), with as many messages of a stream as jobs, and with poison among both.
"""

import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import cast

from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from ..broker import codec, keys
from ..broker.client import connect
from ..broker.dsn import RedisDsn
from ..broker.redis_errors import OUTAGE_ERRORS
from ..inspector.dead_letters import DeadLetterQueue
from ..testing.redis_server import Server
from ..types import RedisClient
from .chaos_worker import MAX_ATTEMPTS
from .workload import Item, ItemKind, Workload, workloads

TICK_S = 0.25
ITEM_S = 0.002
"""How long an item takes."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The options of the ``chaos`` command."""

    messages: int
    jobs: int
    workers: int
    producers: int
    kill: float
    restart: float
    toxic: float
    killers: int
    lease: float
    seed: int | None
    timeout: float


@dataclass(slots=True)
class Tally:
    """The outcome of the messages, or of the jobs."""

    sent: int
    handled: int = 0
    duplicates: int = 0
    dead_lettered: int = 0
    dead_lettered_good: int = 0
    """Good ones that went to the dead-letter queue nevertheless."""
    unfinished: int = 0
    """Still in Redis when the run gave up."""
    lost: int = 0

    @property
    def passed(self) -> bool:
        """Whether nothing was lost and nothing good was dead-lettered."""
        return not (self.unfinished or self.lost or self.dead_lettered_good)

    def count(self, times: dict[int, int], dead: dict[int, str], waiting: set[int]) -> None:
        """Count from how often each was done, the kinds of the dead letters, and what waits."""
        settled = times.keys() | dead.keys()
        self.handled = len(times)
        self.duplicates = sum(times.values()) - len(times)
        self.dead_lettered = len(dead)
        self.dead_lettered_good = sum(kind == "good" for kind in dead.values())
        self.unfinished = len(waiting - settled)
        self.lost = self.sent - len(settled | waiting)


@dataclass(slots=True)
class Report:
    """The result of a run."""

    server: str
    tallies: dict[str, Tally]
    """By the names of the workloads."""
    workers_killed: int = 0
    redis_restarts: int = 0
    seconds: float = 0.0
    leftover_keys: list[str] = field(default_factory=list[str])
    recovery_s: list[float] = field(default_factory=list[float])
    """For each killed worker, how long until others had reclaimed the leases that it held."""
    resume_s: list[float] = field(default_factory=list[float])
    """For each restart of Redis, how long from its return until something was handled."""

    @property
    def passed(self) -> bool:
        """Whether nothing was lost, wrongly dead-lettered or left behind."""
        return all(t.passed for t in self.tallies.values()) and not self.leftover_keys

    def as_dict(self) -> dict[str, object]:
        """Return plain data, for ``--json``."""
        found = asdict(self)
        return {**found.pop("tallies"), **found, "passed": self.passed}


class _Run:
    """One run; the parts share the server, the workers and the report."""

    def __init__(self, plan: Plan, server: Server, folder: str) -> None:
        self.plan = plan
        self.server = server
        self.folder = folder
        self.random = random.Random(plan.seed)  # noqa: S311 - chaos, not cryptography
        self.workers: list[asyncio.subprocess.Process] = []
        self.workloads = workloads()
        self.leased = [one for one in self.workloads if one.survives_kills]
        """Workloads whose leases show what each worker holds."""
        self.work = {
            one: self.deal(one, plan.messages if one.kind == "message" else plan.jobs)
            for one in self.workloads
        }
        tallies = {one.name: Tally(len(items)) for one, items in self.work.items()}
        self.report = Report(server.version, tallies)
        self.redis = connect(RedisDsn.parse(server.dsn))
        self.client = cast("RedisClient", self.redis)
        self.finished = False
        self.good = sum(i.kind == "good" for items in self.work.values() for i in items)
        """Number of messages and jobs that are to be handled."""

    def deal(self, workload: Workload, count: int) -> list[Item]:
        """Return messages, or jobs, of each kind in random order."""
        killers = self.plan.killers if workload.survives_kills else 0
        toxic = round(count * self.plan.toxic)
        counts: dict[ItemKind, int] = {"killer": killers, "toxic": toxic}
        counts["good"] = count - killers - toxic
        kinds = list(Counter(counts).elements())  # a negative count is none
        self.random.shuffle(kinds)
        return [
            Item(number=number, kind=kind, seconds=ITEM_S)
            for number, kind in enumerate(kinds[:count])
        ]

    async def produce(self, workload: Workload, items: list[Item]) -> None:
        """Send all of it; what Redis did not confirm is sent again."""
        for first in range(0, len(items), 20):
            while True:
                try:
                    await workload.send(self.redis, items[first : first + 20])
                    break
                except OUTAGE_ERRORS:
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.01)

    async def start_worker(self, index: int) -> asyncio.subprocess.Process:
        """Start worker ``index``."""
        package = __name__.rpartition(".")[0]
        environment = {
            **{name: value for name, value in os.environ.items() if name[:7] != "WORKER_"},
            "WORKER_REDIS_DSN": self.server.dsn,
            "WORKER_CONSUMER_GROUP": "demo",
            "WORKER_LEASE_TIMEOUT": str(self.plan.lease),
            "WORKER_HEALTH_FILE": str(Path(self.folder) / f"worker-{index}"),
            "WORKER_RETRY_BACKOFF": "0.1",
            "WORKER_RETRY_BACKOFF_MAX": "1",
            "WORKER_POLL_DELAY": "0.2",
            # Kills come from outside, too, and must not cause a good message to be dead-lettered.
            "WORKER_MAX_DELIVERIES": str(MAX_ATTEMPTS),
            # In the end only toxic messages are left, which is not an outage to wait for.
            "WORKER_BREAKER_THRESHOLD": "1000000",
            "WORKER_LOG_LEVEL": "CRITICAL",
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        }
        if not all(one.survives_kills for one in self.workloads):
            # arq's own worker runs the jobs of a dead one again 10 s after this.
            environment["WORKER_JOB_TIMEOUT"] = str(self.plan.lease)
        log = (Path(self.folder) / "workers.log").open("ab")
        with contextlib.closing(log):
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", f"{package}.chaos_worker",
                # Away from the project's .env.
                env=environment, cwd=self.folder, stdout=log, stderr=log,
            )  # fmt: skip

    async def keep_workers(self) -> None:
        """Start the workers, and again those that died."""
        for index in range(self.plan.workers):
            self.workers.append(await self.start_worker(index))
        while True:
            for index, worker in enumerate(self.workers):
                if worker.returncode is not None:
                    self.workers[index] = await self.start_worker(index)
            await asyncio.sleep(TICK_S)

    async def cause_faults(self) -> None:
        """Kill and restart at random."""
        async with asyncio.TaskGroup() as watchers:
            while not self.finished:
                await asyncio.sleep(TICK_S)
                if self.random.random() < self.plan.kill and self.workers:
                    worker = self.random.choice(self.workers)
                    if worker.returncode is None:
                        worker.send_signal(signal.SIGKILL)
                        self.report.workers_killed += 1
                        if self.leased:
                            watchers.create_task(self.watch_recovery(worker.pid))
                if self.random.random() < self.plan.restart:
                    self.server.kill()
                    await asyncio.sleep(self.random.uniform(0.0, 1.0))
                    await asyncio.to_thread(self.server.start)
                    self.report.redis_restarts += 1
                    watchers.create_task(self.watch_resume())

    async def watch_recovery(self, pid: int) -> None:
        """Measure how long until others hold all that the worker held."""
        start = time.monotonic()
        while not self.finished:
            with contextlib.suppress(RedisError, OSError):
                if not any([await one.holds(self.redis, pid) for one in self.leased]):
                    self.report.recovery_s.append(round(time.monotonic() - start, 2))
                    return
            await asyncio.sleep(0.1)

    async def handled(self) -> int:
        """Return how many messages and jobs were handled."""
        records = [one.record for one in self.workloads]
        return sum([int(await self.client.execute_command("HLEN", r)) for r in records])

    async def watch_resume(self) -> None:
        """Measure how long until work goes on."""
        start = time.monotonic()
        before: int | None = None
        while not self.finished:
            with contextlib.suppress(RedisError, OSError):
                now = await self.handled()
                if now >= self.good:
                    return  # only what fails is left
                if before is not None and now > before:
                    self.report.resume_s.append(round(time.monotonic() - start, 2))
                    return
                before = now
            await asyncio.sleep(0.05)

    async def settle(self) -> None:
        """Wait until all is settled."""
        while not await self.settled():  # noqa: ASYNC110 - what is waited for is in Redis
            await asyncio.sleep(0.2)

    async def settled(self) -> bool:
        """Whether all is handled or dead-lettered, and nothing waits or runs."""
        try:
            handled = await self.handled()
            dlqs = [DeadLetterQueue.of_source(self.client, one.source) for one in self.workloads]
            dead = sum([await dlq.size() for dlq in dlqs])
            idle = all([await one.is_settled(self.redis) for one in self.workloads])
            idle = idle and not await self.redis.zcard(keys.DEFAULT_QUEUE)
        except OUTAGE_ERRORS:
            return False
        sent = sum(map(len, self.work.values()))
        return handled + dead >= sent and idle

    async def times(self, record: str) -> dict[int, int]:
        """Return how often each message, or job, was handled."""
        handled: dict[bytes, bytes] = await self.client.execute_command("HGETALL", record)
        return {int(number): int(count) for number, count in handled.items()}

    async def count(self) -> None:
        """Fill the report from what is in Redis."""
        for one in self.workloads:
            dead: dict[int, str] = {}
            async for entry in DeadLetterQueue.of_source(self.client, one.source).scan():
                item = one.item_of(entry.payload)
                dead[item.number] = item.kind
            times, waiting = await self.times(one.record), await one.waiting(self.redis)
            self.report.tallies[one.name].count(times, dead, waiting)
        known: set[str] = set()
        for one in self.workloads:
            known |= {one.record, keys.dlq(one.source)}
            known |= {one.source, keys.parked(one.source)} if one.kind == "message" else set()
        for key in map(codec.decode, await self.client.execute_command("KEYS", "*")):
            if key not in known and int(await self.client.execute_command("TTL", key)) == -1:
                self.report.leftover_keys.append(key)


async def run_chaos(plan: Plan, console: Console) -> Report:
    """Run the plan; the report says whether something was lost.

    Raises:
        NoServerError: there is no Redis server to start.
    """
    current = asyncio.current_task()
    if current is not None:
        # A CI job that is cancelled leaves no workers and no server behind.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, current.cancel)
    with Server(persistent=True) as server, tempfile.TemporaryDirectory() as folder:
        run = _Run(plan, server, folder)
        sent = ", ".join(f"{len(items):,} {one.name}" for one, items in run.work.items())
        console.print(
            f"{run.report.server}: {sent}, "
            f"{plan.workers} workers; every {TICK_S * 1000:.0f} ms {plan.kill:.0%} SIGKILL, "
            f"{plan.restart:.0%} Redis restart"
        )
        start = time.monotonic()
        keeper = asyncio.create_task(run.keep_workers())
        faults = asyncio.create_task(run.cause_faults())
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(plan.timeout):
                    async with asyncio.TaskGroup() as producers:
                        for index in range(plan.producers):
                            share = slice(index, None, plan.producers)
                            for one, items in run.work.items():
                                producers.create_task(run.produce(one, items[share]))
                    await run.settle()
        finally:
            run.finished = True
            await asyncio.wait([faults])
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            await _stop(run.workers)
        if (error := faults.exception()) is not None:  # Redis did not come back; in a group
            raise cast("BaseException", getattr(error, "exceptions", [error])[0])
        run.report.seconds = round(time.monotonic() - start, 1)
        await run.count()
        await run.redis.aclose(close_connection_pool=True)
        return run.report


async def _stop(workers: list[asyncio.subprocess.Process]) -> None:
    for worker in workers:
        if worker.returncode is None:
            worker.terminate()
    for worker in workers:
        try:
            async with asyncio.timeout(15):
                await worker.wait()
        except TimeoutError:
            worker.kill()
            await worker.wait()


def report_table(report: Report) -> Table:
    """Return the report as a table."""
    verdict = "[green]nothing lost[/green]" if report.passed else "[red]FAILED[/red]"
    table = Table(title=f"Chaos: {verdict}", title_justify="left")
    for column in ("", *report.tallies):
        table.add_column(column, justify="right" if column else "left")
    tallies = [asdict(tally) for tally in report.tallies.values()]
    for name in tallies[0]:
        table.add_row(name.replace("_", " "), *(f"{tally[name]:,}" for tally in tallies))
    table.add_section()
    facts = {
        "workers killed": str(report.workers_killed),
        "Redis restarts": str(report.redis_restarts),
        "recovery": _spread(report.recovery_s),
        "resume": _spread(report.resume_s),
        "leftover keys": ", ".join(report.leftover_keys) or "none",
        "seconds": f"{report.seconds:g}",
    }
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def _spread(times: list[float]) -> str:
    if not times:
        return "-"
    return f"median {median(times):.1f} s, longest {max(times):.1f} s"
