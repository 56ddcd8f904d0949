# Owned by arq-worker-template: `copier update` overwrites edits; call `snapshot` instead.
"""What is in Redis right now: one function, whatever shows it."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from redis.exceptions import ResponseError

from . import keys, wire
from .config import WorkerConfig
from .dlq import SetAside
from .events import EventRouter
from .types import EntryId, RedisClient, StreamName

LAG_COUNT_LIMIT = 2_000
"""Redis 6.2 does not know the lag; undelivered entries are counted up to this many."""


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """The arq queue."""

    name: str
    due: int
    """Jobs that should run now."""
    deferred: int
    """Jobs that run, or wait for their time; retries of messages among them."""
    dlq: int
    """Jobs that were given up."""


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One stream and the consumer group of this worker."""

    name: StreamName
    length: int
    lag: int
    """Entries not yet delivered to the group."""
    pending: int
    """Entries delivered and not yet acknowledged."""
    delivered: int | None
    """Entries ever delivered to the group; None where Redis does not count them (6.2)."""
    consumers: int
    oldest_pending_s: float | None
    oldest_unread_s: float | None
    """How long ago the oldest of the undelivered entries was published."""
    dlq: int
    parked: int

    @property
    def oldest_s(self) -> float | None:
        """How long ago the oldest entry that is not settled was published."""
        ages = [age for age in (self.oldest_pending_s, self.oldest_unread_s) if age is not None]
        return max(ages, default=None)

    @property
    def added(self) -> int | None:
        """Entries ever added, so that rates can be taken."""
        return None if self.delivered is None else self.delivered + self.lag

    @property
    def settled(self) -> int | None:
        """Entries ever settled by the group: handled, to be retried, or set aside."""
        return None if self.delivered is None else self.delivered - self.pending


@dataclass(frozen=True, slots=True)
class Status:
    """All of it."""

    redis: str
    server: str
    queue: QueueStatus
    streams: tuple[StreamStatus, ...]

    def as_dict(self) -> dict[str, object]:
        """Return plain data, for ``--json``."""
        return asdict(self)


async def snapshot(redis: RedisClient, config: WorkerConfig, router: EventRouter | None) -> Status:
    """Ask Redis for the state of the queue and of the router's streams.

    Raises:
        redis.exceptions.RedisError: Redis does not answer.
    """
    now_ms = int(time.time() * 1000)
    server = server_name(await redis.execute_command("INFO", "server"))
    due = int(await redis.execute_command("ZCOUNT", config.queue_name, "-inf", now_ms))
    total = int(await redis.execute_command("ZCARD", config.queue_name))
    dead = int(await redis.execute_command("XLEN", keys.dlq(config.queue_name)))
    streams = [
        await _stream(redis, stream, config.consumer_group)
        for stream in (router.streams if router else ())
    ]
    return Status(
        redis=str(config.location),
        server=server,
        queue=QueueStatus(config.queue_name, due, total - due, dead),
        streams=tuple(streams),
    )


def server_name(info: Mapping[str, object]) -> str:
    """Return name and version of a server, as its INFO tells them."""
    name = str(info.get("server_name") or "redis")
    return f"{name} {info.get(f'{name}_version') or info.get('redis_version')}"


async def _stream(redis: RedisClient, stream: StreamName, group: str) -> StreamStatus:
    info = await _group(redis, stream, group)
    pending = int(info.get("pending", 0))
    oldest: bytes | None = None
    if pending:
        # None where all of it was settled since we asked.
        oldest = (await redis.execute_command("XPENDING", stream, group))["min"]
    length = int(await redis.execute_command("XLEN", stream))
    lag, last = info.get("lag"), wire.text(info.get("last-delivered-id", b"0-0"))
    unread = SetAside(redis, stream)  # reads any stream, in pages; bodies must not pile up here
    if lag is None:
        behind = unread.scan(after=last, most=LAG_COUNT_LIMIT)
        lag = sum([1 async for _ in behind]) if info else length
    first = [entry async for entry in unread.scan(after=last, most=1)] if lag else []
    return StreamStatus(
        name=stream,
        length=length,
        lag=int(lag),
        pending=pending,
        delivered=info.get("entries-read"),
        consumers=int(info.get("consumers", 0)),
        oldest_pending_s=_age(oldest),
        oldest_unread_s=_age(first[0].entry_id if first else None),
        dlq=int(await redis.execute_command("XLEN", keys.dlq(stream))),
        parked=int(await redis.execute_command("XLEN", keys.parked(stream))),
    )


async def _group(redis: RedisClient, stream: StreamName, group: str) -> dict[str, Any]:
    try:
        # Written as one word, redis-py reads the reply to a dictionary for each group.
        rows: list[dict[str, Any]] = await redis.execute_command("XINFO GROUPS", stream)
    except ResponseError as exc:
        if "no such key" in str(exc):
            return {}
        raise
    for row in rows:
        if wire.text(row["name"]) == group:
            return row
    return {}


def _age(entry_id: bytes | EntryId | None) -> float | None:
    """Return how long ago an entry was published."""
    if entry_id is None:
        return None
    return max(0.0, time.time() - int(wire.text(entry_id).partition("-")[0]) / 1000)
