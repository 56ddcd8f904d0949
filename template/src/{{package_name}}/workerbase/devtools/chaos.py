# Owned by arq-worker-template: `copier update` overwrites edits; pass options to `chaos` instead.
"""The chaos run: workers are killed and Redis is restarted under load; nothing may be lost.

The setting follows docket's chaos harness (10 workers, 20,000 tasks, a chance of a fault every
250 ms), with as many messages of a stream as jobs, and with poison among both.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, cast

from arq.constants import default_queue_name, in_progress_key_prefix
from arq.jobs import Job
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from .. import keys, wire
from ..connect import OUTAGE_ERRORS, RedisLocation, connect
from ..delivery.streams import publish
from ..dlq import SetAside
from ..types import RedisClient
from .chaos_worker import HANDLED, MAX_TRIES, RAN, STREAM, Work
from .server import Server

TICK_S = 0.25
GROUP = "chaos"
QUEUE = default_queue_name


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do to the worker; the options of the ``chaos`` command."""

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
    """What came of the messages, or of the jobs."""

    sent: int
    handled: int = 0
    duplicates: int = 0
    dead_lettered: int = 0
    dead_lettered_good: int = 0
    """Such as would have worked and went to the DLQ all the same."""
    unfinished: int = 0
    """Such as were still in Redis when the run gave up."""
    lost: int = 0

    @property
    def passed(self) -> bool:
        """Whether nothing was lost or condemned."""
        return not (self.unfinished or self.lost or self.dead_lettered_good)

    def count(self, times: dict[int, int], dead: dict[int, str], waiting: set[int]) -> None:
        """Fill it from how often each was handled, the kinds of the dead, and what waits."""
        settled = times.keys() | dead.keys()
        self.handled = len(times)
        self.duplicates = sum(times.values()) - len(times)
        self.dead_lettered = len(dead)
        self.dead_lettered_good = sum(kind == "good" for kind in dead.values())
        self.unfinished = len(waiting - settled)
        self.lost = self.sent - len(settled | waiting)


@dataclass(slots=True)
class Report:
    """What came of it all."""

    server: str
    messages: Tally
    jobs: Tally
    workers_killed: int = 0
    redis_restarts: int = 0
    seconds: float = 0.0
    leftover_keys: list[str] = field(default_factory=list[str])
    recovery_s: list[float] = field(default_factory=list[float])
    """For each killed worker, how long until others had taken all it held."""
    resume_s: list[float] = field(default_factory=list[float])
    """For each restart of Redis, how long from its return until something was handled."""

    @property
    def passed(self) -> bool:
        """Whether nothing was lost, condemned or left behind."""
        return self.messages.passed and self.jobs.passed and not self.leftover_keys

    def as_dict(self) -> dict[str, object]:
        """Return plain data, for ``--json``."""
        return {**asdict(self), "passed": self.passed}


class _Run:
    """One run; the parts share the server, the workers and the report."""

    def __init__(self, plan: Plan, server: Server, folder: str) -> None:
        self.plan = plan
        self.server = server
        self.folder = folder
        self.random = random.Random(plan.seed)  # noqa: S311 - chaos, not cryptography
        self.workers: list[asyncio.subprocess.Process] = []
        self.report = Report(server.version, Tally(plan.messages), Tally(plan.jobs))
        self.redis = connect(RedisLocation.parse(server.dsn))
        self.client: RedisClient = self.redis
        self.finished = False
        self.good = 0
        """Messages and jobs that are to be handled."""

    def deal(self, count: int) -> list[Work]:
        """Make messages, or jobs, of each kind."""
        kinds = ["killer"] * self.plan.killers + ["toxic"] * round(count * self.plan.toxic)
        kinds += ["good"] * (count - len(kinds))
        self.good += kinds.count("good")
        self.random.shuffle(kinds)
        return [Work(number=number, kind=kind) for number, kind in enumerate(kinds[:count])]

    async def publish(self, work: list[Work]) -> None:
        """Publish messages."""
        await publish(self.client, *work)

    async def enqueue(self, work: list[Work]) -> None:
        """Enqueue jobs."""
        for job in work:
            await self.redis.enqueue_job("job", job.number, job.kind, _job_id=f"chaos-{job.number}")

    async def produce(
        self, send: Callable[[list[Work]], Awaitable[None]], work: list[Work]
    ) -> None:
        """Send all of it; what Redis did not confirm is sent again."""
        for first in range(0, len(work), 20):
            while True:
                try:
                    await send(work[first : first + 20])
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
            "WORKER_CONSUMER_GROUP": GROUP,
            "WORKER_LEASE_TIMEOUT": str(self.plan.lease),
            "WORKER_HEALTH_FILE": str(Path(self.folder) / f"worker-{index}"),
            "WORKER_RETRY_BACKOFF": "0.1",
            "WORKER_RETRY_BACKOFF_MAX": "1",
            "WORKER_POLL_DELAY": "0.2",
            # Kills come from outside, too, and must not condemn a good message.
            "WORKER_MAX_DELIVERIES": str(MAX_TRIES),
            # In the end only toxic messages are left, which is no outage to wait for.
            "WORKER_BREAKER_THRESHOLD": "1000000",
            "WORKER_LOG_LEVEL": "CRITICAL",
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        }
        log = (Path(self.folder) / "workers.log").open("ab")
        with contextlib.closing(log):
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", f"{package}.chaos_worker",
                # Not where the project's .env lies.
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
                rows: list[list[Any]] = await self.client.execute_command(
                    "XINFO", "CONSUMERS", STREAM, GROUP
                )
                held = [r[r.index(b"pending") + 1] for r in rows if b"-%d-" % pid in r[1]]
                if not any(held) and not await self.holds_jobs(pid):
                    self.report.recovery_s.append(round(time.monotonic() - start, 2))
                    return
            await asyncio.sleep(0.1)

    async def holds_jobs(self, pid: int) -> bool:
        """Whether the worker still has leases of jobs."""
        now = time.time() * 1000
        job_ids = await self.client.execute_command("ZRANGEBYSCORE", QUEUE, now, "+inf")
        if not job_ids:
            return False
        leases = (in_progress_key_prefix.encode() + job_id for job_id in job_ids)
        owners: list[bytes | None] = await self.client.execute_command("MGET", *leases)
        return any(b"-%d-" % pid in owner for owner in owners if owner)

    async def handled(self) -> int:
        """Return how many messages and jobs were handled."""
        return sum([int(await self.client.execute_command("HLEN", h)) for h in (HANDLED, RAN)])

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
            dead = sum([await SetAside.dlq(self.client, s).size() for s in (STREAM, QUEUE)])
            pending = (await self.client.execute_command("XPENDING", STREAM, GROUP))["pending"]
            queued = int(await self.client.execute_command("ZCARD", QUEUE))
        except OUTAGE_ERRORS:
            return False
        return handled + dead >= self.plan.messages + self.plan.jobs and not pending and not queued

    async def times(self, record: str) -> dict[int, int]:
        """Return how often each message, or job, was handled."""
        handled: dict[bytes, bytes] = await self.client.execute_command("HGETALL", record)
        return {int(number): int(count) for number, count in handled.items()}

    async def count(self) -> None:
        """Fill the report from what is in Redis."""
        dead: dict[int, str] = {}
        async for entry in SetAside.dlq(self.client, STREAM).scan():
            message = Work.model_validate_json(entry.payload["data"])
            dead[message.number] = message.kind
        dead_jobs: dict[int, str] = {}
        async for entry in SetAside.dlq(self.client, QUEUE).scan():
            number, kind = json.loads(entry.payload["data"])["args"]
            dead_jobs[number] = kind
        waiting = {
            Work.model_validate_json(entry.payload["data"]).number
            async for entry in SetAside(self.client, STREAM).scan()
        }
        waiting_jobs: set[int] = set()
        for job_id in await self.client.execute_command("ZRANGE", QUEUE, 0, -1):
            job = await Job(job_id.decode(), self.redis, _deserializer=wire.loads).info()
            if job is None:
                continue
            if job.function == "job":
                waiting_jobs.add(job.args[0])
            else:  # the retry of a message
                waiting.add(Work.model_validate_json(job.args[1]["data"]).number)
        self.report.messages.count(await self.times(HANDLED), dead, waiting)
        self.report.jobs.count(await self.times(RAN), dead_jobs, waiting_jobs)
        known = (STREAM.encode(), keys.dlq(QUEUE).encode())
        for key in await self.client.execute_command("KEYS", "*"):
            if (
                not key.startswith(known)
                and int(await self.client.execute_command("TTL", key)) == -1
            ):
                self.report.leftover_keys.append(key.decode())


async def run_chaos(plan: Plan, console: Console) -> Report:
    """Do it; the report says whether something was lost.

    Raises:
        NoServerError: there is no Redis server to start.
    """
    current = asyncio.current_task()
    if current is not None:
        # A CI job that is called off leaves no workers and no server behind.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, current.cancel)
    with Server(persistent=True) as server, tempfile.TemporaryDirectory() as folder:
        run = _Run(plan, server, folder)
        console.print(
            f"{run.report.server}: {plan.messages:,} messages, {plan.jobs:,} jobs, "
            f"{plan.workers} workers; every {TICK_S * 1000:.0f} ms {plan.kill:.0%} SIGKILL, "
            f"{plan.restart:.0%} Redis restart"
        )
        messages, jobs = run.deal(plan.messages), run.deal(plan.jobs)
        start = time.monotonic()
        keeper = asyncio.create_task(run.keep_workers())
        faults = asyncio.create_task(run.cause_faults())
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(plan.timeout):
                    async with asyncio.TaskGroup() as producers:
                        for index in range(plan.producers):
                            share = slice(index, None, plan.producers)
                            producers.create_task(run.produce(run.publish, messages[share]))
                            producers.create_task(run.produce(run.enqueue, jobs[share]))
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
    """Draw the report."""
    verdict = "[green]nothing lost[/green]" if report.passed else "[red]FAILED[/red]"
    table = Table(title=f"Chaos: {verdict}", title_justify="left")
    for column in ("", "messages", "jobs"):
        table.add_column(column, justify="right" if column else "left")
    for name, value in asdict(report.messages).items():
        table.add_row(name.replace("_", " "), f"{value:,}", f"{getattr(report.jobs, name):,}")
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
