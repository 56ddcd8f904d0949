"""What the stream tests share: events, a consumer in this process, workers in others."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

from arq.constants import job_key_prefix
from arq.jobs import deserialize_job_raw
from redis.exceptions import ResponseError
from workerbase import wire
from workerbase.base import requeue_to_stream
from workerbase.config import WorkerConfig
from workerbase.connect import connect, raw_entries
from workerbase.consumer import Consumer
from workerbase.delivery.streams import publish
from workerbase.devtools.server import Server
from workerbase.events import Event
from workerbase.types import RedisClient

STREAM = "work"
GROUP = "workers"
RECORD = "record"
"""List of what the worker processes did, in order."""


class Work(Event, type="work", stream=STREAM):
    number: int
    kind: str = "good"
    seconds: float = 0.0


@contextlib.asynccontextmanager
async def client_of(server: Server) -> AsyncIterator[RedisClient]:
    redis = connect(WorkerConfig.model_validate({"redis_dsn": server.dsn}).location)
    try:
        yield cast("RedisClient", redis)
    finally:
        await redis.aclose(close_connection_pool=True)


@contextlib.asynccontextmanager
async def consuming(router: Any, config: WorkerConfig, **options: Any) -> AsyncIterator[Consumer]:
    """Run a consumer beside the test; it drains at the end."""
    redis, reader = connect(config.location), connect(config.location)
    consumer = Consumer(cast("RedisClient", redis), raw_entries(reader), router, config, **options)
    stop = asyncio.Event()
    running = asyncio.create_task(consumer.run(stop))
    try:
        yield consumer
    finally:
        stop.set()
        await running
        await redis.aclose(close_connection_pool=True)
        await reader.aclose(close_connection_pool=True)


async def make_group(redis: RedisClient, *groups: str, stream: str = STREAM) -> None:
    for group in groups or (GROUP,):
        await redis.execute_command("XGROUP", "CREATE", stream, group, "0", "MKSTREAM")


async def read_as(
    redis: RedisClient, consumer: str, count: int = 100, group: str = GROUP, stream: str = STREAM
) -> list[str]:
    """Read as a consumer that is never heard of again; return the ids."""
    reply = await redis.execute_command(
        "XREADGROUP", "GROUP", group, consumer, "COUNT", count, "STREAMS", stream, ">"
    )
    return [wire.text(entry_id) for _, entries in reply or () for entry_id, _ in entries]


async def expire_leases(redis: RedisClient, *, suspect: bool = True) -> list[str]:
    """Let the leases of all pending entries end, as time would."""
    expired = []
    for row in await pending(redis):
        count = row["times_delivered"] if suspect else 0
        await redis.execute_command(
            "XCLAIM", STREAM, GROUP, row["consumer"], 0, row["message_id"],
            "IDLE", 86_400_000, "RETRYCOUNT", count, "JUSTID", parse_justid=True,
        )  # fmt: skip
        expired.append(wire.text(row["message_id"]))
    return expired


async def pending(
    redis: RedisClient, stream: str = STREAM, group: str = GROUP
) -> list[dict[str, Any]]:
    try:
        return await redis.execute_command(
            "XPENDING", stream, group, "-", "+", 100_000, parse_detail=True
        )
    except ResponseError as exc:
        if "NOGROUP" not in str(exc):
            raise
        return []  # a worker that is ready is still about to make it


async def length(redis: RedisClient, stream: str) -> int:
    return int(await redis.execute_command("XLEN", stream))


async def entries(redis: RedisClient, stream: str) -> list[dict[str, str]]:
    rows = await redis.execute_command("XRANGE", stream, "-", "+")
    return [{wire.text(k): wire.text(v) for k, v in fields.items()} for _, fields in rows]


async def run_jobs(redis: RedisClient, config: WorkerConfig, *, twice: bool = False) -> int:
    """Run the requeue jobs at once, whether due or not; return how many.

    ``twice`` is what two workers do that took the same job.
    """
    count = 0
    for raw_id in await redis.execute_command("ZRANGE", config.queue_name, 0, -1):
        job_id = wire.text(raw_id)
        raw = await redis.execute_command("GET", job_key_prefix + job_id)
        name, args, kwargs, *_ = deserialize_job_raw(raw, deserializer=wire.loads)
        assert (name, kwargs) == ("requeue_to_stream", {})
        ctx: dict[str, object] = {"redis": redis, "config": config, "job_id": job_id, "job_try": 1}
        for _ in range(1 + twice):
            await requeue_to_stream(ctx, *cast("tuple[Any, Any]", args))
        count += 1
    return count


class Process:
    """A real worker process; see `stream_worker`."""

    def __init__(self, server: Server, folder: Path, **settings: object) -> None:
        folder.mkdir(exist_ok=True)
        self.health_file = folder / "healthy"
        self.log = folder / "log"
        self._environment = {
            **os.environ,
            "WORKER_REDIS_DSN": server.dsn,
            "WORKER_HEALTH_FILE": str(self.health_file),
            "WORKER_LEASE_TIMEOUT": "1",
            "WORKER_HEARTBEAT_INTERVAL": "0.25",
            "WORKER_RETRY_BACKOFF": "0.05",
            "WORKER_RETRY_BACKOFF_MAX": "0.1",
            "WORKER_POLL_DELAY": "0.1",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            **{f"WORKER_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> "Process":
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, str(Path(__file__).with_name("stream_worker.py")),
                env=self._environment, stdout=log, stderr=log,
            )  # fmt: skip
        return self

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    def send(self, signum: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(signum)

    async def ended(self) -> int:
        """Wait for the end; return the exit code."""
        assert self.process is not None
        async with asyncio.timeout(20):
            return await self.process.wait()

    async def __aenter__(self) -> "Process":
        return await self.start()

    async def kill(self) -> None:
        """SIGKILL it, if it lives."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def __aexit__(self, *_: object) -> None:
        await self.kill()


async def record(redis: RedisClient) -> list[str]:
    return [wire.text(item) for item in await redis.execute_command("LRANGE", RECORD, 0, -1)]


async def send(redis: RedisClient, *numbers: int, **fields: Any) -> list[str]:
    return list(await publish(redis, *(Work(number=n, **fields) for n in numbers)))
