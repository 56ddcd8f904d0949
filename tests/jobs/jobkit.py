"""What the job tests share: workers in this process and in others, and what they left behind."""

import asyncio
import contextlib
import itertools
import os
import pickle
import signal
import sys
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import quick_python
from arq.connections import ArqRedis
from leasedkit import client_of, settings_of
from waiting import until
from workerbase.broker import codec
from workerbase.broker.enqueue import QueueClient
from workerbase.devtools.faults import other_clock
from workerbase.errors import WorkerError
from workerbase.inspector.dead_letters import DeadLetterEntry, DeadLetterQueue
from workerbase.jobs import LeasedJobs
from workerbase.jobs.engine import JobEngine
from workerbase.jobs.leases import JobLeases
from workerbase.jobs.queue import Claim, FinishedJob, JobQueue
from workerbase.process.service import WorkerContext
from workerbase.process.settings import resolved_settings
from workerbase.types import RedisClient
from workerconfig import Config

QUEUE = "arq:queue"
NUMBERS = itertools.count(1_000_000)
BASE = Path(__file__).parents[2] / "template" / "src" / "{{package_name}}"


def context_of(client: QueueClient, config: Config, *functions: Any, **more: Any) -> WorkerContext:
    """Make the context of a worker as the runner does."""
    settings = resolved_settings(settings_of(config, *functions, **more))
    worker = WorkerContext(
        settings=settings,
        ctx={**settings.ctx, "redis": client},
        redis=client,
        retry_policy=settings.retry_policy,
        runs_services=True,
    )
    worker.ctx["worker"] = worker
    return worker


async def service_of(worker: WorkerContext) -> LeasedJobs:
    """Start the service of a worker, without serving yet."""
    service = LeasedJobs()
    await service.startup(worker)
    return service


@contextlib.asynccontextmanager
async def working(
    config: Config, *functions: Any, drain: float = 2.0, **more: Any
) -> AsyncIterator[JobEngine]:
    """Run a worker beside the test; it drains at the end."""
    async with client_of(config) as client:
        service = await service_of(context_of(client, config, *functions, **more))
        stop = asyncio.Event()
        running = asyncio.create_task(service.serve(stop, drain))
        listening = f"{config.queue_name}:wake"
        try:
            await until(lambda: running.done() or _listens(client, listening))
            yield service.engine
        finally:
            stop.set()
            await running


async def _listens(client: QueueClient, channel: str) -> bool:
    try:
        found = await cast("RedisClient", client).execute_command("PUBSUB", "NUMSUB", channel)
    except OSError:
        return False
    return found[1] > 0


async def burst(config: Config, *functions: Any, **more: Any) -> JobEngine:
    """Run what is due, retries too, until the queue is empty."""
    async with client_of(config) as client:
        service = await service_of(context_of(client, config, *functions, **more))
        while await client.zcard(config.queue_name):
            await service.run_pending()
            await asyncio.sleep(0.005)
        return service.engine


class NamedQueue(JobQueue):
    """A queue that knows what it has claimed, so that a test may name jobs by their ids."""

    def __init__(self, client: object, worker: str, lease_timeout: float) -> None:
        self.leases = JobLeases(cast("RedisClient", client), QUEUE, worker, lease_timeout)
        super().__init__(self.leases.redis, QUEUE, worker, self.leases.lease_ms)
        self.claims: dict[str, Claim] = {}

    async def claim(self, *args: Any, **options: Any) -> tuple[list[Claim], float | None]:
        claims, next_due = await JobQueue.claim(self, *args, **options)
        self.claims |= {claim.job_id: claim for claim in claims}
        return claims, next_due

    def claim_of(self, job_id: str) -> Claim:
        """The last claim of a job, or one that was never made: each has a number of its own."""
        if job_id not in self.claims:
            never = f"{self.worker} {next(NUMBERS)}"
            self.claims[job_id] = Claim(QUEUE, never, job_id, 0.0, None, 1)
        return self.claims[job_id]

    def ended(self, job_id: str, result: bytes | None, keep_ms: int, **more: int) -> FinishedJob:
        return FinishedJob(self.claim_of(job_id), result, keep_ms, **more)

    async def renew(self, job_ids: Iterable[str]) -> list[str]:
        return await self.leases.renew([self.claim_of(job_id) for job_id in job_ids])

    async def release(self, job_id: str, delay: float = 0.0, **options: Any) -> bool:
        return await self.leases.release(self.claim_of(job_id), delay, **options)

    async def release_all(self, keep: Collection[str] = ()) -> int:
        return await self.leases.release_all(keep)


def queue_of(client: object, worker: str, lease_timeout: float = 15.0) -> NamedQueue:
    """The queue as a worker of this name sees it."""
    return NamedQueue(client, worker, lease_timeout)


def look_ahead(worker: JobEngine) -> None:
    """Let the worker prefetch, as if its jobs were quick."""
    worker.prefetched._mean_s = 1e-4
    worker.prefetched._wake_reader()


def held_by(worker: JobEngine) -> dict[str, Any]:
    """The claims that a worker holds, by job id."""
    return worker.held.by_source[QUEUE]


def read_both(data: bytes) -> object:
    """The deserializer of a worker that is migrating: what is not pickled is JSON."""
    return pickle.loads(data) if data.startswith(b"\x80") else codec.loads(data)


async def dead_letters(client: ArqRedis, queue: str = QUEUE) -> list[DeadLetterEntry]:
    return [
        entry
        async for entry in DeadLetterQueue.of_source(cast("RedisClient", client), queue).scan()
    ]


async def calls(client: ArqRedis) -> dict[str, int]:
    """How often each command was called; those inside scripts count, too."""
    stats = await client.info("commandstats")
    return {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}


def clock(skew: float) -> Mapping[str, str]:
    """The environment of a process whose clock is ahead by ``skew`` seconds.

    Where libfaketime is missing the test fails in CI and is skipped elsewhere.
    """
    if not skew:
        return {}
    try:
        return other_clock(skew)
    except WorkerError as exc:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(exc))


class Process:
    """A worker in a process of its own: `job_worker.py`."""

    def __init__(self, config: Config, log: Path, skew: float = 0, **environment: object) -> None:
        known = {
            f"WORKER_{name.upper()}": str(getattr(config, name))
            for name in (
                "health_file", "lease_timeout", "max_jobs", "poll_delay", "max_retries",
                "retry_backoff", "retry_backoff_max", "job_timeout",
            )
        }  # fmt: skip
        given = {f"WORKER_{name.upper()}": str(value) for name, value in environment.items()}
        self.log = log
        self.health_file = Path(given.get("WORKER_HEALTH_FILE", config.health_file))
        with log.open("ab") as output:
            self._popen = quick_python.Popen(
                [sys.executable, str(Path(__file__).with_name("job_worker.py"))],
                stdout=output,
                stderr=output,
                env={
                    **os.environ,
                    "PYTHONPATH": str(BASE),
                    "WORKER_REDIS_DSN": config.redis_dsn.get_secret_value(),
                    "WORKER_HEARTBEAT_INTERVAL": "0.25",
                    **clock(skew),
                    **known,
                    **given,
                },
            )

    def send(self, signum: signal.Signals) -> None:
        self._popen.send_signal(signum)

    @property
    def code(self) -> int | None:
        return self._popen.poll()

    async def exit(self, timeout: float = 20.0) -> int:
        """Wait for its end and return its exit code."""
        await until(lambda: self._popen.poll() is not None, timeout, "exit of the worker")
        return self._popen.returncode

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def end(self) -> None:
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGCONT)
            self._popen.kill()
        self._popen.wait()


@contextlib.contextmanager
def processes(config: Config, folder: Path) -> Iterator[Callable[..., Process]]:
    """Start workers with the function that this yields; all are gone at the end."""
    started: list[Process] = []

    def start(**environment: object) -> Process:
        number = len(started)
        environment.setdefault("health_file", folder / f"healthy-{number}")
        started.append(Process(config, folder / f"worker-{number}.log", **environment))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.end()


async def lasting_keys(client: ArqRedis) -> list[bytes]:
    """All keys but those by which workers recognize outages and repeated requests."""
    return sorted(k for k in await client.keys() if b":answer:" not in k and b":alive" not in k)


async def ran(client: ArqRedis) -> list[str]:
    """What the tasks of `job_worker.py` wrote down, in order."""
    return [item.decode() for item in await client.lrange("record", 0, -1)]
