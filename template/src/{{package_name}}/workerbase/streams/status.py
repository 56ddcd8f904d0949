"""What waits in a stream, as `Streams.status` reports it."""

import time
from typing import Any, Literal

from redis.exceptions import ResponseError

from ..broker import codec, keys
from ..broker.entries import pages
from ..broker.redis_errors import is_missing_key
from ..engine.sources import MAX_COUNTED, SourceStatus
from ..types import EntryId, RedisClient, StreamName

MAX_EXAMINED = 100
"""Maximum number of pending entries that are looked at, the oldest."""
MAX_SILENCE_S = 15.0
"""Longer than a consumer of a live worker ever waits before it asks for entries again."""


async def stream_status(redis: RedisClient, stream: StreamName, group: str) -> SourceStatus:
    """Return the state of a stream and of one consumer group.

    Raises:
        redis.exceptions.RedisError: Redis does not answer.
    """
    info = await _group(redis, stream, group)
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
    return SourceStatus(
        name=stream,
        kind="stream",
        missing=missing,
        alive=bool(info) and await _is_read(redis, stream, group),
        length=length,
        waiting=int(lag),
        in_work=pending,
        delivered=info.get("entries-read"),
        consumers=int(info.get("consumers", 0)),
        oldest_in_work_s=_age(oldest),
        longest_idle_s=await _longest_idle(redis, stream, group) if pending else 0.0,
        oldest_waiting_s=_age(first[0][0][0] if first and first[0] else None),
        dead_letters=int(await redis.execute_command("XLEN", keys.dlq(stream))),
        parked=int(await redis.execute_command("XLEN", keys.parked(stream))),
    )


async def _is_read(redis: RedisClient, stream: StreamName, group: str) -> bool:
    """Whether a consumer of the group has asked for entries within `MAX_SILENCE_S`."""
    rows: list[list[Any]] = await redis.execute_command("XINFO", "CONSUMERS", stream, group)
    fields = (dict(zip(map(codec.decode, row[::2]), row[1::2], strict=True)) for row in rows)
    return any(int(row["idle"]) < MAX_SILENCE_S * 1000 for row in fields)


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


async def _group(redis: RedisClient, stream: StreamName, group: str) -> dict[str, Any]:
    try:
        # Written as one word, redis-py parses the reply to a dictionary for each group.
        rows: list[dict[str, Any]] = await redis.execute_command("XINFO GROUPS", stream)
    except ResponseError as exc:
        if is_missing_key(exc):
            return {}
        raise
    for row in rows:
        if codec.decode(row["name"]) == group:
            return row
    return {}


def _age(entry_id: bytes | EntryId | None) -> float | None:
    """Return how long ago an entry was published, in seconds."""
    if entry_id is None:
        return None
    return max(0.0, time.time() - int(codec.decode(entry_id).partition("-")[0]) / 1000)
