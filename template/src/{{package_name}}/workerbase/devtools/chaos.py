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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from redis.exceptions import RedisError
from rich.console import Console

from ..broker import codec, keys
from ..broker.client import connect
from ..broker.dsn import RedisDsn
from ..broker.redis_errors import OUTAGE_ERRORS
from ..inspector.dead_letters import DeadLetterQueue
from ..testing.redis_server import Server
from ..types import RedisClient
from .chaos_report import Report, Tally
from .chaos_worker import MAX_ATTEMPTS
from .faults import LossyProxy, other_clock, stand_still
from .workload import Item, ItemKind, Workload, environment_of, workloads

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
    suspend: float = 0.0
    freeze: float = 0.0
    lose: float = 0.0
    skew: float = 0.0
    services: int = 1


class _Run:
    """One run; the parts share the server, the workers and the report."""

    def __init__(self, plan: Plan, server: Server, folder: str) -> None:
        self.plan = plan
        self.server = server
        self.folder = folder
        self.random = random.Random(plan.seed)  # noqa: S311 - chaos, not cryptography
        self.workers: list[asyncio.subprocess.Process] = []
        self.proxy = LossyProxy(server.port, plan.lose, self.random)
        self.workloads = workloads(plan.services)
        self.leased = [one for one in self.workloads if one.survives_kills]
        """Workloads whose leases show what each worker holds."""
        self.work: dict[Workload, list[Item]] = {}
        for one in self.workloads:
            # Services that read one stream get the same messages.
            shared = [items for other, items in self.work.items() if other.source == one.source]
            count = plan.messages if one.kind == "message" else plan.jobs
            self.work[one] = shared[0] if shared else self.deal(one, count)
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

    def senders(self) -> list[Workload]:
        """Return a workload for each stream or queue: what two services read is sent once."""
        return list({one.source: one for one in reversed(self.workloads)}.values())[::-1]

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
        deviation = self.random.uniform(-self.plan.skew, self.plan.skew)
        port = self.proxy.port if self.plan.lose else self.server.port
        environment = {
            **{name: value for name, value in os.environ.items() if name[:7] != "WORKER_"},
            **(other_clock(deviation) if self.plan.skew else {}),
            "WORKER_REDIS_DSN": f"redis://127.0.0.1:{port}/0",
            **environment_of(index % self.plan.services),
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
        """Kill, restart and hold up at random."""
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
                if self.random.random() < self.plan.suspend and self.workers:
                    watchers.create_task(self.suspend(self.random.choice(self.workers)))
                if self.random.random() < self.plan.freeze:
                    self.report.redis_freezes += 1
                    await stand_still(self.server.freeze, self.server.thaw, self.pause())
                    watchers.create_task(self.watch_resume())

    def pause(self) -> float:
        """Return how long something stands still: shorter or longer than a lease."""
        return self.random.uniform(0.0, 1.5 * self.plan.lease)

    async def suspend(self, worker: asyncio.subprocess.Process) -> None:
        """Let a worker stand still; one that is killed meanwhile stays dead."""

        def send(signum: int) -> None:
            with contextlib.suppress(ProcessLookupError):
                worker.send_signal(signum)

        self.report.workers_suspended += 1
        stop, go_on = partial(send, signal.SIGSTOP), partial(send, signal.SIGCONT)
        await stand_still(stop, go_on, self.pause())

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
            sources = {one.source for one in self.workloads}
            dlqs = [DeadLetterQueue.of_source(self.client, source) for source in sources]
            ended = await self.handled() + sum([await dlq.size() for dlq in dlqs])
            idle = all([await one.is_settled(self.redis) for one in self.workloads])
        except OUTAGE_ERRORS:
            return False
        return ended >= sum(map(len, self.work.values())) and idle

    async def times(self, record: str) -> dict[int, int]:
        """Return how often each message, or job, was handled."""
        handled: dict[bytes, bytes] = await self.client.execute_command("HGETALL", record)
        return {int(number): int(count) for number, count in handled.items()}

    async def count(self) -> None:
        """Fill the report from what is in Redis."""
        for one in self.workloads:
            dead: dict[int, str] = {}
            dlq = DeadLetterQueue.of_source(self.client, one.source, one.group)
            async for entry in dlq.scan():
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
    async with contextlib.AsyncExitStack() as open_:
        server = open_.enter_context(Server(persistent=True))
        folder = open_.enter_context(tempfile.TemporaryDirectory())
        run = _Run(plan, server, folder)
        await open_.enter_async_context(run.proxy.serving())
        sent = ", ".join(f"{len(run.work[one]):,} {one.name}" for one in run.senders())
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
                            for one in run.senders():
                                producers.create_task(run.produce(one, run.work[one][share]))
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
        run.report.answers_lost = run.proxy.lost
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
