"""The core task: puts a failed message back into its stream, or into the dead-letter queue.

A payload that can never go back to its stream goes to ``{stream}:dlq`` as it is. Without a stream
the job itself is dead-lettered.
"""

import logging
from collections.abc import Mapping
from typing import cast
from uuid import uuid4

from ..broker import codec, keys
from ..broker.queue_scripts import requeue as requeue_entry
from ..broker.redis_errors import OUTAGE_ERRORS
from ..engine import failure_record
from ..engine.retry_policy import RetryPolicy
from ..engine.text import writable
from ..errors import PayloadError, PermanentError, WorkerError
from ..types import Ctx, FieldValue, RedisClient
from .arq_names import ArqRetry
from .service import worker_of

logger = logging.getLogger(__name__)

REQUEUE_TASK = "requeue_to_stream"
MAX_REQUEUE_ATTEMPTS = 1_000_000_000
"""Without a limit in practice: the message is safe only once it is back in a stream."""
MAX_BACKOFF_S = 60.0


class RequeueError(ArqRetry, WorkerError):
    """The message could not be put back into its stream; arq runs the job again."""

    def __init__(self, message: str, defer: float) -> None:
        super().__init__(defer)
        self._message = message

    def __str__(self) -> str:
        """Return what went wrong."""
        return self._message


async def requeue(ctx: Ctx, stream_name: str, payload: Mapping[str, FieldValue]) -> None:
    """Take one step of `base.requeue_to_stream`.

    Raises:
        PermanentError: ``stream_name`` is not the name of a stream.
        RequeueError: nothing was written, and arq runs the job again later.
    """
    attempt = ctx.get("job_try", 1)
    delay = RetryPolicy(cap=MAX_BACKOFF_S).backoff(attempt if isinstance(attempt, int) else 1)
    try:
        await _requeue(ctx, stream_name, payload)
    except PermanentError:
        raise
    except (*OUTAGE_ERRORS, WorkerError, ValueError) as exc:
        msg = f"message for {stream_name!r} is not requeued yet, retry in {delay:.1f} s: {exc}"
        logger.error("%s", msg)  # noqa: TRY400 - the traceback would hide the sentence
        raise RequeueError(msg, delay) from exc


async def _requeue(ctx: Ctx, stream_name: str, payload: Mapping[str, FieldValue]) -> None:
    redis = ctx.get("redis")
    if redis is None:
        msg = "ctx has no 'redis'; run requeue_to_stream in a worker"
        raise WorkerError(msg)
    worker = worker_of(ctx)
    try:
        keys.check_stream_name(stream_name)
    except ValueError as exc:
        if worker is None:
            raise  # nobody else would keep the job
        raise PermanentError(str(exc)) from exc
    queue = worker.config.queue_name if worker else keys.DEFAULT_QUEUE
    max_dead_letters = worker.config.dlq_max_entries if worker else 0
    target, max_entries = stream_name, 0
    try:
        fields = _text_fields(payload)
    except PayloadError as exc:
        logger.error("a message cannot go back to %s and is dead-lettered: %s", stream_name, exc)  # noqa: TRY400
        fields = failure_record.dead_letter(
            _shown(payload),
            failure_record.describe_failure(exc, stream_name, ""),
            "invalid",
            0,
        )
        target, max_entries = keys.dlq(stream_name), max_dead_letters
        failure = f"{ctx['job_id']}:invalid" if ctx.get("job_id") else ""
    else:
        failure = _failure_id(ctx, fields)
        count = int(fields[failure_record.RETRIES])
        policy = worker.retry_policy if worker else RetryPolicy()
        if count >= policy.max_retries:
            target, max_entries = keys.dlq(stream_name), max_dead_letters
            fields = _dead_letter(fields, stream_name, count)
        else:
            fields = failure_record.back_to_work(fields)
    dropped = await requeue_entry(
        cast("RedisClient", redis),
        target=target,
        dedup_key=keys.requeued(stream_name, failure or uuid4().hex),
        dedup_ttl_ms=keys.DEDUP_TTL_MS if failure else 1,
        queue=queue,
        job_id=str(ctx.get("job_id", "")),
        max_entries=max_entries,
        fields=codec.encode_fields(fields),
    )
    if dropped > 0:
        logger.error(failure_record.FULL, target, dropped)


def _text_fields(payload: Mapping[str, FieldValue]) -> dict[str, str]:
    """Return the payload as text, with its count of retries incremented.

    Raises:
        PayloadError: it is not a payload that Redis can hold.
    """
    if not isinstance(payload, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"payload is {type(payload).__name__}, not a mapping"
        raise PayloadError(msg)
    codec.encode_fields(payload)  # refuse what Redis cannot hold before anything is converted
    fields = {name: str(value) for name, value in payload.items()}
    retries = fields.get(failure_record.RETRIES, "0")
    if not failure_record.is_count(retries):
        msg = f"_retries is {retries[:20]!r}, not a number"
        raise PayloadError(msg)
    return fields | {failure_record.RETRIES: str(int(retries) + 1)}


def _shown(payload: object) -> dict[str, str]:
    """Return a payload that is not one as fields that can be looked at."""
    if not isinstance(payload, Mapping):
        return {failure_record.DATA: codec.to_display_json(payload)}
    fields = cast("Mapping[object, object]", payload)
    return {
        writable(str(name)): writable(value)
        if isinstance(value, str)
        else codec.to_display_json(value)
        for name, value in fields.items()
    }


def _dead_letter(fields: dict[str, str], stream_name: str, count: int) -> dict[str, str]:
    """Return the dead letter of a message that has used up its attempts."""
    failed = failure_record.describe_failure(
        WorkerError(f"gave up after {count} attempts"),
        stream_name,
        fields.get(failure_record.ENTRY_ID, ""),
    )
    # What the handler's failure left in the payload says more than this does.
    failed |= {k: v for k, v in fields.items() if k in failed}
    return failure_record.dead_letter(fields, failed, "retries", count)


def _failure_id(ctx: Ctx, fields: Mapping[str, str]) -> str:
    """Return an id of the failure that is requeued; empty if it cannot be told from another."""
    entry_id = fields.get(failure_record.ENTRY_ID)
    if entry_id:
        return f"{fields.get(failure_record.GROUP, '')}:{entry_id}"
    job_id = ctx.get("job_id")
    return f"{job_id}:{fields[failure_record.RETRIES]}" if job_id else ""
