# Owned by arq-worker-template: `copier update` overwrites edits; configure a RetryPolicy instead.
"""The core task: puts a failed message back into its stream, or into the dead-letter queue."""

import logging
from collections.abc import Mapping
from typing import Any, cast
from uuid import uuid4

from arq.constants import default_queue_name, job_key_prefix
from arq.worker import Function, func
from arq.worker import Retry as ArqRetry

from . import deadletter, keys, scripts, wire
from .config import WorkerConfig
from .connect import OUTAGE_ERRORS
from .errors import PayloadError, WorkerError
from .events import RETRIES
from .retry import RetryPolicy
from .settle import REQUEUE_TASK
from .types import Ctx, FieldValue, RedisClient

logger = logging.getLogger(__name__)

FOREVER = 1_000_000_000
"""Tries of `requeue_to_stream`: the message is safe only once it is back in a stream."""


class RequeueError(ArqRetry, WorkerError):
    """The message could not be put back into its stream; arq runs the job again."""

    def __init__(self, message: str, defer: float) -> None:
        super().__init__(defer)
        self._message = message

    def __str__(self) -> str:
        """Say what went wrong."""
        return self._message


async def requeue_to_stream(ctx: Ctx, stream_name: str, payload: Mapping[str, FieldValue]) -> None:
    """Put a failed message back into its stream, or into ``{stream_name}:dlq`` after the last try.

    ``payload["_retries"]`` is incremented; a count below ``max_retries`` goes back, any other to
    the DLQ: five deliveries in all, by default. Running twice for one failure (the same job, or
    the same ``_entry_id``) adds the message once.

    Raises:
        RequeueError: nothing was written, and arq is to try again later.
    """
    attempt = ctx.get("job_try", 1)
    delay = RetryPolicy(cap=60.0).backoff(attempt if isinstance(attempt, int) else 1)
    try:
        await _requeue(ctx, stream_name, payload)
    except (*OUTAGE_ERRORS, WorkerError, ValueError) as exc:
        msg = f"message for {stream_name!r} is not requeued yet, retry in {delay:.1f} s: {exc}"
        logger.error("%s", msg)  # noqa: TRY400 - the traceback would hide the sentence
        raise RequeueError(msg, delay) from exc


async def _requeue(ctx: Ctx, stream_name: str, payload: Mapping[str, FieldValue]) -> None:
    redis = ctx.get("redis")
    if redis is None:
        msg = "ctx has no 'redis'; run requeue_to_stream in a worker"
        raise WorkerError(msg)
    keys.check_stream_name(stream_name)
    if not isinstance(payload, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"payload is {type(payload).__name__}, not a mapping"
        raise PayloadError(msg)
    wire.flatten(payload)  # refuse what Redis cannot hold before anything is converted
    fields = {name: str(value) for name, value in payload.items()}
    retries = fields.get(RETRIES, "0")
    if not retries.isdecimal():
        msg = f"_retries is {retries!r}, not a number"
        raise PayloadError(msg)
    count = int(retries) + 1
    fields[RETRIES] = str(count)

    config = ctx.get("config")
    known = config if isinstance(config, WorkerConfig) else None
    max_retries = (known or RetryPolicy()).max_retries
    failure = _failure_id(ctx, fields)
    target, bound = stream_name, 0
    if count >= max_retries:
        target, bound = keys.dlq(stream_name), known.dlq_max_entries if known else 0
        failed = deadletter.describe_failure(
            WorkerError(f"gave up after {count} tries"), stream_name, fields.get("_entry_id", "")
        )
        # What the handler's failure left in the payload says more than this does.
        failed |= {k: v for k, v in fields.items() if k in failed}
        fields = deadletter.dead_letter(fields, failed, "retries", count)
    else:
        fields = deadletter.back_to_work(fields)
    job_id = str(ctx.get("job_id", ""))
    queue = getattr(redis, "default_queue_name", default_queue_name)
    dropped = await scripts.requeue(
        cast("RedisClient", redis),
        [
            target,
            keys.requeued(stream_name, failure or uuid4().hex),
            str(queue),
            job_key_prefix + job_id,
        ],
        [job_id, keys.DEDUP_TTL_MS if failure else 1, bound, *wire.flatten(fields)],
    )
    if dropped > 0:
        logger.error(deadletter.FULL, target, dropped)


def _failure_id(ctx: Ctx, fields: Mapping[str, str]) -> str:
    """Name the failure that is being requeued; empty if nothing tells it from another one."""
    entry_id = fields.get("_entry_id")
    if entry_id:
        return entry_id
    job_id = ctx.get("job_id")
    return f"{job_id}:{fields[RETRIES]}" if job_id else ""


CORE_FUNCTIONS: tuple[Function, ...] = (
    func(
        cast("Any", requeue_to_stream),
        name=REQUEUE_TASK,
        max_tries=FOREVER,
        keep_result=0,
    ),
)
"""Tasks that every worker has; `BaseArqWorkerSettings` merges them in."""
