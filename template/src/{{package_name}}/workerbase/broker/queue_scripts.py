"""Atomic steps on job queues and streams that no engine owns: `lua/` has their scripts.

All functions raise `redis.exceptions.RedisError` and `OSError` if Redis refuses a step or is
unavailable.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

from ..types import EntryId, RedisClient, StreamName
from . import keys
from .scripts import Script

JobReplay: TypeAlias = Literal["replayed", "gone", "exists"]
"""What `replay_job` did: "gone" means that the dead letter was replayed or purged before, "exists"
that a job with this id waits."""

_REQUEUE = Script.load(__name__, "requeue")
_MOVE_ENTRY = Script.load(__name__, "move_entry")
_ADD_DEAD_LETTER = Script.load(__name__, "add_dead_letter")
_REPLAY_JOB = Script.load(__name__, "replay_job")


async def requeue(
    redis: RedisClient,
    *,
    target: StreamName,
    dedup_key: str,
    queue: str,
    job_id: str,
    dedup_ttl_ms: int,
    max_entries: int,
    fields: Sequence[bytes],
) -> int:
    """Add a message to a stream once, and delete the job that does so.

    Args:
        redis: where.
        target: the stream that gets the message.
        dedup_key: the key that remembers this failure, see `keys.requeued`.
        queue: the queue of the job.
        job_id: the id of the job.
        dedup_ttl_ms: how long the failure is remembered, in milliseconds.
        max_entries: bound of the target; 0 for none.
        fields: names and values of the message in turn.

    Returns:
        The number of oldest entries removed from the target to keep the bound; -1 if the failure
        was requeued before.
    """
    dropped = await _REQUEUE(
        redis,
        [target, dedup_key, queue, keys.job(queue, job_id)],
        [job_id, dedup_ttl_ms, max_entries, *fields],
    )
    return int(dropped)


async def add_dead_letter(
    redis: RedisClient, *, dlq: StreamName, max_entries: int, fields: Sequence[bytes]
) -> int:
    """Add a dead letter to a dead-letter queue.

    Args:
        redis: where.
        dlq: the dead-letter queue.
        max_entries: bound of the dead-letter queue; 0 for none.
        fields: names and values of the dead letter in turn.

    Returns:
        The number of oldest dead letters removed to keep the bound.
    """
    return int(await _ADD_DEAD_LETTER(redis, [dlq], [max_entries, *fields]))


async def move_entry(
    redis: RedisClient,
    *,
    source: StreamName,
    target: StreamName,
    entry_id: EntryId,
    fields: Sequence[bytes],
) -> bool:
    """Move an entry to another stream, with ``fields`` (names and values in turn) as its content.

    Returns:
        Whether the entry was moved; False if it was moved or purged before.
    """
    return bool(await _MOVE_ENTRY(redis, [source, target], [entry_id, *fields]))


async def replay_job(
    redis: RedisClient,
    *,
    queue: str,
    entry_id: EntryId,
    job_id: str,
    job: bytes,
    expires_ms: int,
) -> JobReplay:
    """Enqueue a dead-lettered job again, due now, and remove its dead letter.

    Args:
        redis: where.
        queue: the queue of the job.
        entry_id: the dead letter in the dead-letter queue of ``queue``.
        job_id: the id of the job.
        job: the serialized job.
        expires_ms: time until the job expires, in milliseconds.
    """
    replayed = await _REPLAY_JOB(
        redis,
        [
            keys.dlq(queue),
            queue,
            keys.job(queue, job_id),
            keys.result(queue, job_id),
            keys.retry(queue, job_id),
        ],
        [entry_id, job_id, job, expires_ms],
    )
    if replayed < 0:
        return "exists"
    return "replayed" if replayed else "gone"
