"""Dead letters by error, of several sources at once and in bounded time: for monitors."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..types import RedisClient, StreamName
from .dead_letters import DeadLetterQueue, ErrorGroup


@dataclass(frozen=True, slots=True)
class DeadLetterSummary:
    """A dead-letter queue by error."""

    source: StreamName
    total: int
    newest: str
    """Id of the newest entry; together with the same length it means that nothing has changed."""
    examined: int
    """Number of entries in the groups: the newest ones."""
    groups: tuple[ErrorGroup, ...]


async def summarize(
    redis: RedisClient,
    totals: Iterable[tuple[StreamName, int]],
    limit: int,
    before: Iterable[DeadLetterSummary] = (),
) -> tuple[DeadLetterSummary, ...]:
    """Group the dead letters of several sources by error.

    Args:
        redis: an open client.
        totals: the sources, and the number of their dead letters.
        limit: number of entries of a source that are read, the newest.
        before: the last summaries; a queue that has not changed since is not read again.

    Raises:
        redis.exceptions.RedisError: Redis does not answer.
    """
    known = {summary.source: summary for summary in before}
    return tuple(
        [
            await _summarize(redis, source, total, limit, known.get(source))
            for source, total in totals
        ]
    )


async def _summarize(
    redis: RedisClient,
    source: StreamName,
    total: int,
    limit: int,
    before: DeadLetterSummary | None,
) -> DeadLetterSummary:
    queue = DeadLetterQueue.of_source(redis, source)
    newest = await queue.newest() if total else ""
    if before and (before.total, before.newest) == (total, newest):
        return before
    groups = await queue.newest_groups(limit) if total else []
    examined = sum(group.count for group in groups)
    return DeadLetterSummary(source, total, newest, examined, tuple(groups))
