"""Consumer groups of streams."""

from typing import Any

from redis.exceptions import ResponseError

from ..broker import codec
from ..broker.entries import pages
from ..broker.redis_errors import is_missing_key
from ..broker.scripts import Script
from ..engine.sources import MAX_SILENCE_S, OtherGroup
from ..errors import RegistrationError
from ..types import RedisClient, StreamName
from .stream import Start

_ENSURE_GROUP = Script.load(__name__, "ensure_group")
_REMOVE_GROUP = Script.load(__name__, "remove_group")

_FIRST_IDS: dict[Start | None, str] = {"new": "$", "beginning": "0", None: ""}


async def ensure_group(
    redis: RedisClient,
    stream: StreamName,
    group: str,
    start: Start | None,
    *,
    last_read: str = "",
) -> bool:
    """Create ``group`` on ``stream``, and the stream itself, where they are missing.

    Args:
        redis: an open client.
        stream: the stream.
        group: the consumer group.
        start: where a new group starts; None where the project declares nothing, which is the
            beginning as long as no other group reads the stream.
        last_read: id of the last entry that this process has read, if any: a group that was
            destroyed continues there, unless the stream was lost as well.

    Returns:
        Whether the group was missing.

    Raises:
        RegistrationError: other groups read the stream, and ``start`` is None.
        redis.exceptions.RedisError: Redis does not answer or refuses.
    """
    reply: int | list[bytes] = await _ENSURE_GROUP(
        redis, [stream], [group, _FIRST_IDS[start], last_read]
    )
    if isinstance(reply, list):
        others = ", ".join(sorted(map(codec.decode, reply)))
        msg = (
            f"{stream!r} is read by other consumer groups ({others}), and nothing declares where "
            f"the new group {group!r} starts; write EventRouter(Stream({stream!r}, start='new')) "
            "to read what is published from now on, or start='beginning' to read all of it"
        )
        raise RegistrationError(msg)
    return bool(reply)


async def groups_of(redis: RedisClient, stream: StreamName) -> dict[str, dict[str, Any]]:
    """Return what Redis knows of each consumer group of ``stream``; none if there is no stream."""
    try:
        # Written as one word, redis-py parses the reply to a dictionary for each group.
        rows: list[dict[str, Any]] = await redis.execute_command("XINFO GROUPS", stream)
    except ResponseError as exc:
        if is_missing_key(exc):
            return {}
        raise
    return {codec.decode(row["name"]): row for row in rows}


async def silence_of(redis: RedisClient, stream: StreamName, group: str) -> float | None:
    """Return the seconds since a consumer last asked for entries; None if there is no consumer."""
    rows: list[list[Any]] = await redis.execute_command("XINFO", "CONSUMERS", stream, group)
    fields = (dict(zip(map(codec.decode, row[::2]), row[1::2], strict=True)) for row in rows)
    return min((int(row["idle"]) / 1000 for row in fields), default=None)


async def others_that_hold(
    redis: RedisClient, stream: StreamName, group: str, now: float
) -> tuple[OtherGroup, ...]:
    """Return the groups but ``group`` that have not settled all entries of ``stream``.

    Args:
        redis: an open client.
        stream: the stream.
        group: the group to leave out.
        now: Unix time by the clock of Redis, in seconds.
    """
    found: list[OtherGroup] = []
    for name, row in (await groups_of(redis, stream)).items():
        pending, lag = int(row["pending"]), row.get("lag")
        if name == group:
            continue
        start = f"({codec.decode(row['last-delivered-id'])}"
        if pending:
            summary = await redis.execute_command("XPENDING", stream, name)
            start = codec.decode(summary["min"] or b"-")
        first = [p async for p in pages(redis, stream, start=start, limit=1)]
        if not first or not first[0]:
            continue
        oldest = int(first[0][0][0].partition("-")[0]) / 1000
        unsettled = None if lag is None else pending + int(lag)
        silent = await silence_of(redis, stream, name)
        found.append(OtherGroup(name, unsettled, max(0.0, now - oldest), silent))
    return tuple(found)


async def remove_group(
    redis: RedisClient, stream: StreamName, group: str, *, min_silence: float = MAX_SILENCE_S
) -> str:
    """Remove a retired consumer group.

    Args:
        redis: an open client.
        stream: the stream.
        group: the group.
        min_silence: time for which none of its consumers may have asked for entries, in seconds.

    Returns:
        ``removed``; ``alive`` if a consumer asked for entries lately; ``gone`` if there is no such
        group.
    """
    reply = await _REMOVE_GROUP(redis, [stream], [group, int(min_silence * 1000)])
    return codec.decode(reply)
