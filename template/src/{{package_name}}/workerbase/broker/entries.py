"""Reads the entries of a stream in pages, so that memory does not grow with its length."""

import sys
from collections.abc import AsyncIterator
from typing import Literal, TypeAlias

from ..types import EntryId, Payload, RedisClient, StreamName
from . import codec

PAGE = 50
"""Entries in memory at a time; a single one may have megabytes."""

Page = list[tuple[EntryId, Payload]]

Order: TypeAlias = Literal["oldest", "newest"]
"""Which entries come first."""


def position(entry_id: str) -> tuple[int, ...]:
    """Return what entry ids are ordered by."""
    return tuple(map(int, entry_id.split("-")))


async def pages(
    redis: RedisClient,
    stream: StreamName,
    *,
    start: str = "-",
    end: str = "+",
    limit: int = sys.maxsize,
    order: Order = "oldest",
) -> AsyncIterator[Page]:
    """Yield pages of ids and decoded fields.

    Args:
        redis: an open client.
        stream: the stream.
        start: lowest id, as XRANGE has it: ``(ID`` leaves ID itself out.
        end: highest id.
        limit: maximum number of entries.
        order: which entries come first.

    Raises:
        redis.exceptions.RedisError: Redis does not answer.
    """
    command, first, last = "XRANGE", start, end
    if order == "newest":
        command, first, last = "XREVRANGE", end, start
    while limit > 0:
        count = min(PAGE, limit)
        # redis-py decodes this reply to (id, {name: value}) pairs.
        rows: list[tuple[bytes, dict[bytes, bytes]]] = await redis.execute_command(
            command, stream, first, last, "COUNT", count
        )
        page: Page = [
            (
                EntryId(codec.decode(entry_id)),
                {codec.decode(name): codec.decode(value) for name, value in fields.items()},
            )
            for entry_id, fields in rows or ()
        ]
        yield page
        if len(page) < count:
            return
        limit -= count
        first = f"({page[-1][0]}"
