"""What the stream tests share: events, a consumer in this process, workers in others."""

import asyncio
import contextlib
import copy
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import quick_python
from arq.constants import job_key_prefix
from arq.jobs import deserialize_job_raw
from redis.exceptions import ResponseError
from workerbase.base import BaseArqWorkerSettings, requeue_to_stream
from workerbase.broker import codec
from workerbase.broker.client import connect, raw_entries
from workerbase.broker.enqueue import QueueClient
from workerbase.broker.redis_errors import is_missing_group
from workerbase.leasing.held_leases import HeldLeases
from workerbase.process.service import WorkerContext
from workerbase.process.settings import resolved_settings
from workerbase.streams import EventContext, EventRouter, Stream, Streams
from workerbase.streams.consumer import BLOCK_MS, Consumer
from workerbase.streams.entry import Delivery
from workerbase.streams.events import Event
from workerbase.streams.leases import StreamLeases
from workerbase.streams.publish import publish
from workerbase.streams.settlement import StreamSettlement
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient
from workerconfig import Config

STREAM = "work"
GROUP = "workers"
RECORD = "record"
"""List of what the worker processes did, in order."""


OWN = Stream(STREAM, start="beginning", own=True)


class Work(Event, type="work", stream=STREAM):
    number: int
    kind: str = "good"
    seconds: float = 0.0


@contextlib.asynccontextmanager
async def client_of(server: Server) -> AsyncIterator[RedisClient]:
    redis = connect(Config.model_validate({"redis_dsn": server.dsn}).dsn)
    try:
        yield cast("RedisClient", redis)
    finally:
        await redis.aclose(close_connection_pool=True)


def worker_for(redis: object, own_config: Config | None = None, **more: Any) -> WorkerContext:
    """Make the context of a worker that has ``redis``, which may be a fake, as its client.

    ``more`` are fields of the context, and `services` of the settings.
    """
    own_services = tuple(more.pop("services", ()))

    class Settings(BaseArqWorkerSettings):
        config = own_config or Config()
        services = own_services

    settings = resolved_settings(Settings)
    more.setdefault("retry_policy", settings.retry_policy)
    worker = WorkerContext(
        settings=settings, redis=cast("QueueClient", redis), runs_services=True, **more
    )
    worker.ctx = {"redis": redis, "worker": worker}
    return worker


def settlement_of(
    redis: object,
    consumer: str = "me",
    *,
    stream: str = STREAM,
    draining: bool = False,
    **more: Any,
) -> StreamSettlement:
    """Make a settlement; ``draining`` does not wait for Redis, and ``more`` are settings."""
    return StreamSettlement(
        worker=worker_for(redis, Config(**more)),
        held=HeldLeases([stream]),
        group=GROUP,
        consumer=consumer,
        draining=draining,
    )


@contextlib.asynccontextmanager
async def consuming(
    router: EventRouter, config: Config, *, block_ms: int | None = BLOCK_MS, **more: Any
) -> AsyncIterator[Consumer]:
    """Run a consumer beside the test; it drains at the end.

    ``more`` are fields of its `WorkerContext`: ``availability``, ``monitors``, ``retry_policy``.
    """
    redis, reader = connect(config.dsn), connect(config.dsn)
    worker = worker_for(redis, config, services=[Streams(router)], **more)
    consumer = Consumer(worker, raw_entries(reader), router, config, block_ms=block_ms)
    stop = asyncio.Event()
    running = asyncio.create_task(consumer.serve(stop, config.drain_seconds))
    try:
        yield consumer
    finally:
        stop.set()
        await running
        await redis.aclose(close_connection_pool=True)
        await reader.aclose(close_connection_pool=True)


@contextlib.asynccontextmanager
async def started(router: EventRouter, config: Config, **more: Any) -> AsyncIterator[Streams]:
    """Start the service `Streams` as the runner does, without serving yet."""
    async with contextlib.AsyncExitStack() as stack:

        def open_client() -> QueueClient:
            client = connect(config.dsn, config.queue_name)
            stack.push_async_callback(client.aclose, close_connection_pool=True)
            return client

        declared = Streams(router)
        worker = worker_for(
            open_client(), config, services=[declared], open_client=open_client, **more
        )
        service = copy.copy(declared)
        await service.startup(worker)
        yield service


@contextlib.asynccontextmanager
async def serving(router: EventRouter, config: Config, **more: Any) -> AsyncIterator[Streams]:
    """Run the service `Streams` beside the test; it drains at the end."""
    async with started(router, config, **more) as service:
        stop = asyncio.Event()
        running = asyncio.create_task(service.serve(stop, config.drain_seconds))
        try:
            yield service
        finally:
            stop.set()
            await running


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
    return [codec.decode(entry_id) for _, entries in reply or () for entry_id, _ in entries]


async def expire_leases(redis: RedisClient, *, suspect: bool = True) -> list[str]:
    """Let the leases of all pending entries end, as time would."""
    expired = []
    for row in await pending(redis):
        count = row["times_delivered"] if suspect else 0
        await redis.execute_command(
            "XCLAIM", STREAM, GROUP, row["consumer"], 0, row["message_id"],
            "IDLE", 86_400_000, "RETRYCOUNT", count, "JUSTID", parse_justid=True,
        )  # fmt: skip
        expired.append(codec.decode(row["message_id"]))
    return expired


async def pending(
    redis: RedisClient, stream: str = STREAM, group: str = GROUP
) -> list[dict[str, Any]]:
    try:
        return await redis.execute_command(
            "XPENDING", stream, group, "-", "+", 100_000, parse_detail=True
        )
    except ResponseError as exc:
        if not is_missing_group(exc):
            raise
        return []  # a worker that is ready is still about to make it


async def length(redis: RedisClient, stream: str) -> int:
    return int(await redis.execute_command("XLEN", stream))


async def entries(redis: RedisClient, stream: str) -> list[dict[str, str]]:
    rows = await redis.execute_command("XRANGE", stream, "-", "+")
    return [{codec.decode(k): codec.decode(v) for k, v in fields.items()} for _, fields in rows]


async def run_jobs(redis: RedisClient, config: Config, *, twice: bool = False) -> int:
    """Run the requeue jobs at once, whether due or not; return how many.

    ``twice`` is what two workers do that run the same job.
    """
    count, worker = 0, worker_for(redis, config)
    for raw_id in await redis.execute_command("ZRANGE", config.queue_name, 0, -1):
        job_id = codec.decode(raw_id)
        raw = await redis.execute_command("GET", job_key_prefix + job_id)
        name, args, kwargs, *_ = deserialize_job_raw(raw, deserializer=codec.loads)
        assert (name, kwargs) == ("requeue_to_stream", {})
        ctx = {**worker.ctx, "job_id": job_id, "job_try": 1}
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
        self.process: quick_python.Popen | None = None

    async def start(self) -> "Process":
        with self.log.open("ab") as log:
            self.process = quick_python.Popen(
                [sys.executable, str(Path(__file__).with_name("stream_worker.py"))],
                env=self._environment, stdout=log, stderr=log,
            )  # fmt: skip
        return self

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def send(self, signum: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(signum)

    async def ended(self) -> int:
        """Wait for the end; return the exit code."""
        assert self.process is not None
        return await asyncio.to_thread(self.process.wait, 20)

    async def __aenter__(self) -> "Process":
        return await self.start()

    async def kill(self) -> None:
        """SIGKILL it, if it lives."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    async def __aexit__(self, *_: object) -> None:
        await self.kill()


async def record(redis: RedisClient) -> list[str]:
    return [codec.decode(item) for item in await redis.execute_command("LRANGE", RECORD, 0, -1)]


async def send(redis: RedisClient, *numbers: int, **fields: Any) -> list[str]:
    return list(await publish(redis, *(Work(number=n, **fields) for n in numbers)))


def recorder() -> tuple[EventRouter, list[EventContext], list[Work]]:
    """A router whose handler keeps what it gets."""
    router, contexts, events = EventRouter(), list[EventContext](), list[Work]()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        contexts.append(ctx)
        events.append(event)
        await asyncio.sleep(event.seconds)

    return router, contexts, events


def failing(*errors: BaseException | None) -> tuple[EventRouter, list[EventContext]]:
    """A router whose handler raises these in turn, then the last one forever."""
    router, contexts, left = EventRouter(), list[EventContext](), list(errors)

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        contexts.append(ctx)
        error = left.pop(0) if len(left) > 1 else left[0]
        if error is not None:
            raise error

    return router, contexts


async def nothing_pending(redis: RedisClient) -> bool:
    return await pending(redis) == []


async def abandon(redis: RedisClient, entry_id: str, deliveries: int = 1) -> None:
    """Let its lease end, as if it had been delivered ``deliveries`` times."""
    await redis.execute_command(
        "XCLAIM", STREAM, GROUP, "dead", 0, entry_id,
        "IDLE", 86_400_000, "RETRYCOUNT", deliveries, "JUSTID", parse_justid=True,
    )  # fmt: skip


async def abandon_first(redis: RedisClient, entry_id: str) -> None:
    await read_as(redis, "dead")
    await abandon(redis, entry_id)


async def reclaim(leases: StreamLeases, limit: int = 1) -> list[Delivery]:
    """Reclaim the oldest entries whose leases have ended."""
    expired = await leases.expired(max_deliveries=3)
    return await leases.reclaim([entry.entry_id for entry in expired[:limit]])


async def owners(redis: RedisClient) -> dict[str, tuple[str, int]]:
    """Who holds each entry, and how often it was delivered."""
    return {
        codec.decode(row["message_id"]): (codec.decode(row["consumer"]), row["times_delivered"])
        for row in await pending(redis)
    }
