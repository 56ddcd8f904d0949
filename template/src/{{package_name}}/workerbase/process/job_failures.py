"""Failures of tasks under arq's own worker: recorded in the job, or as a dead letter.

A dead letter is written before arq notes that the job failed. A worker that dies between the two
leaves both: the dead letter, and a job that runs again.

What arq ends without running it, because its attempts are used up, its function is unknown or it
cannot be read, leaves a dead letter, too. A job that was aborted or has expired leaves none.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from arq.cron import CronJob
from arq.jobs import DeserializationError

from ..broker import codec, keys
from ..broker.availability import RedisAvailability
from ..broker.job_record import FailedJob, JobFields, JobSerializer
from ..broker.queue_scripts import add_dead_letter
from ..engine import failure_record
from ..engine.retry_policy import Reason
from ..types import Ctx, RedisClient
from .arq_names import Function, JobExecutionFailed
from .service import WorkerContext, redis_of, worker_of

logger = logging.getLogger(__name__)

EXCEEDED = "max {} retries exceeded: the worker died in the last attempt, or it asked for another"


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed attempt of a task."""

    function: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    attempt: int
    error: BaseException


async def record(ctx: Ctx, failure: Failure) -> None:
    """Add a failure that will be retried to the history in the job."""
    found = await _find(ctx, failure)
    if found is None:
        return
    job, redis, worker = found
    logger.warning("%s:%s is retried after attempt %d: %s", *_described(job, failure.error))
    written, _ = job.with_failure(failure.error, _serializer_of(worker))
    key = keys.job(worker.config.queue_name, job.job_id)

    async def write() -> None:
        await redis.execute_command("SET", key, written, "XX")  # started: it does not expire

    if written:
        # An error here would end the job in place of the retry.
        availability: RedisAvailability = worker.availability
        await availability.retry_until_accepted("recording a failure", write, lambda: False)


async def dead_letter(ctx: Ctx, failure: Failure, reason: Reason) -> None:
    """Add the job to ``{queue}:dlq``; an outage of Redis delays it until the job's timeout."""
    found = await _find(ctx, failure)
    if found is not None:
        job, redis, worker = found
        await _write(worker, redis, job, failure.error, reason)


async def dead_letter_refused(
    worker: WorkerContext, job_id: str, functions: Mapping[str, Function | CronJob]
) -> tuple[FailedJob, BaseException] | None:
    """Add a job that arq ends without running it to ``{queue}:dlq``.

    Returns:
        The job and why it cannot run; None if it was aborted or has expired.
    """
    queue = worker.config.queue_name

    async def read() -> list[bytes | None]:
        names = [keys.job(queue, job_id), keys.retry(queue, job_id)]
        return cast("list[bytes | None]", await worker.client.mget(names))

    stored, counted = await worker.availability.retry_until_accepted(
        "reading a job", read, lambda: False
    )
    if stored is None:
        return None
    fields = JobFields()
    try:
        fields = JobFields.read(stored, worker.settings.job_deserializer)
        refusal = _refusal(worker, fields, int(counted or 1), functions)
    except DeserializationError as exc:
        refusal = _Refusal("invalid", exc, int(counted or 1))
    if refusal is None:
        return None
    job = FailedJob(job_id, fields.function, fields.args, fields.kwargs, refusal.attempt, stored)
    await _write(worker, cast("RedisClient", worker.client), job, refusal.error, refusal.reason)
    return job, refusal.error


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why arq does not run a job."""

    reason: Reason
    error: BaseException
    attempt: int


def _refusal(
    worker: WorkerContext,
    job: JobFields,
    attempt: int,
    functions: Mapping[str, Function | CronJob],
) -> _Refusal | None:
    """Return why arq does not run a job that can be read; None if it was aborted."""
    function = functions.get(job.function)
    if function is None:
        error = JobExecutionFailed(f"function {job.function!r} not found")
        return _Refusal("unknown", error, attempt)
    own = function.max_tries
    limit = worker.config.max_retries if own is None else own
    if attempt <= limit:
        return None
    # This attempt does not take place.
    return _Refusal("retries", JobExecutionFailed(EXCEEDED.format(limit)), attempt - 1)


async def _write(
    worker: WorkerContext, redis: RedisClient, job: FailedJob, error: BaseException, reason: Reason
) -> None:
    queue = worker.config.queue_name
    fields = job.dead_letter(error, reason, _serializer_of(worker), queue=queue, worker="arq")

    async def write() -> int:
        return await add_dead_letter(
            redis,
            dlq=keys.dlq(queue),
            max_entries=worker.config.dlq_max_entries,
            fields=codec.encode_fields(fields),
        )

    dropped = await worker.availability.retry_until_accepted(
        "writing a dead letter", write, lambda: False
    )
    logger.error(
        "%s:%s is dead-lettered after attempt %d: %s, in %s (%s)",
        *_described(job, error),
        keys.dlq(queue),
        reason,
    )
    if dropped > 0:
        logger.error(failure_record.FULL, keys.dlq(queue), dropped)


def _described(job: FailedJob, error: BaseException) -> tuple[str, str, int, str]:
    what = f"{type(error).__name__}: {failure_record.text_of(error)}"
    return job.job_id, job.function or "?", job.attempt, what


async def _find(ctx: Ctx, failure: Failure) -> tuple[FailedJob, RedisClient, WorkerContext] | None:
    """Return the job of ``ctx``; None outside a job, where there is nothing to record."""
    worker, redis, job_id = worker_of(ctx), redis_of(ctx), ctx.get("job_id")
    if worker is None or redis is None or not isinstance(job_id, str):
        return None
    client = cast("RedisClient", redis)

    async def read() -> bytes | None:
        key = keys.job(worker.config.queue_name, job_id)
        return cast("bytes | None", await client.execute_command("GET", key))

    stored = await worker.availability.retry_until_accepted("reading a job", read, lambda: False)
    job = FailedJob(
        job_id, failure.function, failure.args, failure.kwargs, failure.attempt, stored or b""
    )
    return job, client, worker


def _serializer_of(worker: WorkerContext) -> JobSerializer:
    return JobSerializer(worker.settings.job_serializer, worker.settings.job_deserializer)
