"""Failures of jobs under arq's own worker: recorded in the job, or as a dead letter.

A dead letter is written before arq notes that the job failed. A worker that dies between the two
leaves both: the dead letter, and a job that runs again.

What arq ends without running it, because its attempts are used up, its function is unknown or it
cannot be read, leaves a dead letter, too. A job that was aborted or has expired leaves none.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from arq.cron import CronJob
from arq.jobs import DeserializationError

from ..broker import codec, keys
from ..broker.job_record import FailedJob, JobFields
from ..broker.queue_scripts import add_dead_letter
from ..engine import failure_record
from ..engine.retry_policy import Reason
from ..monitor import Work
from ..types import Ctx, RedisClient
from .arq_names import Function, JobExecutionFailed
from .service import WorkerContext, redis_of

logger = logging.getLogger(__name__)

EXCEEDED = "max {} retries exceeded: the worker died in the last attempt, or it asked for another"


async def record(worker: WorkerContext, ctx: Ctx, job: FailedJob, error: BaseException) -> None:
    """Add a failure that will be retried to the history in the job."""
    redis = cast("RedisClient | None", redis_of(ctx))
    if redis is None:
        return
    found = await _stored(worker, redis, job)
    logger.warning("%s:%s is retried after attempt %d: %s", *_described(job, error))
    written, _ = found.with_failure(error, worker.settings.serializer)
    key = keys.job(worker.config.queue_name, job.job_id)

    async def write() -> None:
        await redis.execute_command("SET", key, written, "XX")  # started: it does not expire

    if written:
        # An error here would end the job in place of the retry.
        await worker.availability.retry_until_accepted("recording a failure", write)


async def dead_letter(
    worker: WorkerContext, ctx: Ctx, job: FailedJob, error: BaseException, reason: Reason
) -> None:
    """Add the job to ``{queue}:dlq``; an outage of Redis delays it until the job's timeout."""
    redis = cast("RedisClient | None", redis_of(ctx))
    if redis is not None:
        await _write(worker, redis, await _stored(worker, redis, job), error, reason)


async def dead_letter_refused(
    worker: WorkerContext, job_id: str, functions: Mapping[str, Function | CronJob]
) -> None:
    """Add a job that arq ends without running it to ``{queue}:dlq``, and report it to monitors.

    Nothing is written for one that was aborted or has expired.
    """
    queue = worker.config.queue_name

    async def read() -> list[bytes | None]:
        names = [keys.job(queue, job_id), keys.retry(queue, job_id)]
        return cast("list[bytes | None]", await worker.client.mget(names))

    stored, counted = await worker.availability.retry_until_accepted("reading a job", read)
    if stored is None:
        return
    attempt, job = int(counted or 1), JobFields()
    try:
        job = JobFields.read(stored, worker.settings.job_deserializer)
    except DeserializationError as exc:
        reason: Reason = "invalid"
        error: BaseException = exc
    else:
        function = functions.get(job.function)
        if function is None:
            reason, error = "unknown", JobExecutionFailed(f"function {job.function!r} not found")
        else:
            limit = worker.config.max_retries if function.max_tries is None else function.max_tries
            if attempt <= limit:
                return  # it was aborted
            attempt -= 1  # this one does not take place
            reason, error = "retries", JobExecutionFailed(EXCEEDED.format(limit))
    refused = FailedJob(job_id, job.function, job.args, job.kwargs, attempt, stored)
    await _write(worker, worker.commands, refused, error, reason)
    work = Work("job", queue, job.function or "?", job_id, attempt)
    worker.monitors.on_finished(work, "dead_lettered", error, 0.0)


async def _write(
    worker: WorkerContext, redis: RedisClient, job: FailedJob, error: BaseException, reason: Reason
) -> None:
    queue = worker.config.queue_name
    fields = job.dead_letter(error, reason, worker.settings.serializer, queue=queue, worker="arq")

    async def write() -> int:
        return await add_dead_letter(
            redis,
            dlq=keys.dlq(queue),
            max_entries=worker.config.dlq_max_entries,
            fields=codec.encode_fields(fields),
        )

    dropped = await worker.availability.retry_until_accepted("writing a dead letter", write)
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


async def _stored(worker: WorkerContext, redis: RedisClient, job: FailedJob) -> FailedJob:
    """Return ``job`` with what Redis has of it."""
    key = keys.job(worker.config.queue_name, job.job_id)

    async def read() -> bytes | None:
        return cast("bytes | None", await redis.execute_command("GET", key))

    stored = await worker.availability.retry_until_accepted("reading a job", read)
    return replace(job, job=stored or b"")
