"""What waits in a stream, as `Streams.status` reports it."""

from typing import Any, Literal

from ..broker import codec, keys
from ..broker.clock import now_ms
from ..broker.entries import pages
from ..engine.sources import MAX_COUNTED, MAX_SILENCE_S, SourceStatus
from ..types import EntryId, RedisClient, StreamName
from .groups import groups_of, others_that_hold, silence_of

MAX_EXAMINED = 100
"""Maximum number of pending entries that are looked at, the oldest."""


async def stream_status(redis: RedisClient, stream: StreamName, group: str) -> SourceStatus:
    """Return the state of a stream and of one consumer group.

    Raises:
        redis.exceptions.RedisError: Redis does not answer.
    """
    now = await now_ms(redis) / 1000
    info = (await groups_of(redis, stream)).get(group, {})
    pending = int(info.get("pending", 0))
    oldest: bytes | None = None
    if pending:
        # None where all of it was settled in the meantime.
        oldest = (await redis.execute_command("XPENDING", stream, group))["min"]
    length = int(await redis.execute_command("XLEN", stream))
    lag, last = info.get("lag"), codec.decode(info.get("last-delivered-id", b"0-0"))
    if lag is None:
        lag = await _count(redis, stream, last) if info else length
    first = [p async for p in pages(redis, stream, start=f"({last}", limit=1)] if lag else []
    missing: Literal["", "stream", "consumer group"] = ""
    if not info:
        exists = await redis.execute_command("EXISTS", stream)
        missing = "consumer group" if exists else "stream"
    types: set[bytes] = await redis.execute_command("SMEMBERS", keys.deferred_types(stream, group))
    deferred = [keys.deferred(stream, group, codec.decode(name)) for name in types]
    silent = await silence_of(redis, stream, group) if info else None
    return SourceStatus(
        name=stream,
        kind="stream",
        missing=missing,
        alive=silent is not None and silent < MAX_SILENCE_S,
        other_groups=await others_that_hold(redis, stream, group, now),
        later=sum([int(await redis.execute_command("XLEN", name)) for name in deferred]),
        length=length,
        waiting=int(lag),
        in_work=pending,
        delivered=info.get("entries-read"),
        consumers=int(info.get("consumers", 0)),
        oldest_in_work_s=_age(oldest, now),
        longest_idle_s=await _longest_idle(redis, stream, group) if pending else 0.0,
        oldest_waiting_s=_age(first[0][0][0] if first and first[0] else None, now),
        dead_letters=int(await redis.execute_command("XLEN", keys.dlq(stream))),
        parked=int(await redis.execute_command("XLEN", keys.parked(stream))),
    )


async def _longest_idle(redis: RedisClient, stream: StreamName, group: str) -> float:
    """Return how long ago the pending entry that nobody renews was delivered, in seconds."""
    idle = ("IDLE", int(MAX_SILENCE_S * 1000), "-", "+", MAX_EXAMINED)
    rows: list[dict[str, Any]] = await redis.execute_command(
        "XPENDING", stream, group, *idle, parse_detail=True
    )
    return max((row["time_since_delivered"] for row in rows), default=0) / 1000


async def _count(redis: RedisClient, stream: StreamName, after: str) -> int:
    """Count the entries behind ``after``, up to `MAX_COUNTED`."""
    found = pages(redis, stream, start=f"({after}", limit=MAX_COUNTED)
    return sum([len(page) async for page in found])


def _age(entry_id: bytes | EntryId | None, now: float) -> float | None:
    """Return how long ago an entry was published, in seconds."""
    if entry_id is None:
        return None
    return max(0.0, now - int(codec.decode(entry_id).partition("-")[0]) / 1000)
