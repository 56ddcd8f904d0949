"""The end of every attempt: finished, released for a retry, or dead-lettered."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from ..broker import codec, keys
from ..broker.redis_errors import OUTAGE_ERRORS
from ..engine import failure_record
from ..engine.retry_policy import DeadLetter, Retry
from ..leasing.batch_writer import BatchWriter
from ..process.service import WorkerContext
from .attempt import Attempt
from .leases import JobLeases
from .queue import Claim, FinishedJob, JobQueue

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class JobSettlement:
    """Settles the attempts of one worker.

    An outage of Redis only delays it: the lease is renewed, and the step is repeated until Redis
    accepts it, or until the worker stops.
    """

    worker: WorkerContext
    name: str
    """Name of the worker, for dead letters."""
    queue: JobQueue
    leases: JobLeases
    records_failures: bool
    """Whether failures are added to the job's history."""
    draining: bool = False
    """Do not wait for Redis any more: the leases of what is not settled end by themselves."""

    def __post_init__(self) -> None:
        self.finished: BatchWriter[tuple[FinishedJob, asyncio.Future[bool]]] = BatchWriter(
            self._write_finished, "finishing jobs", self.worker.availability
        )

    async def settle(self, attempt: Attempt) -> None:
        """Write the outcome of an attempt to Redis, and report it."""
        attempt.claim.settling = True
        decision = attempt.decision
        if isinstance(decision, Retry):
            write = partial(self._release, attempt, decision)
        elif isinstance(decision, DeadLetter):
            write = partial(self._dead_letter, attempt, decision)
        else:
            write = partial(self._finish, attempt)
        try:
            owned = await self._write(attempt.claim, write)
        except OUTAGE_ERRORS as exc:
            logger.warning(
                "%s is not settled (%s); it runs again when its lease ends", attempt.ref, exc
            )
            return
        if not owned:
            text = "%s ended after its lease had ended; it may run twice"
            logger.warning(text, attempt.ref, extra=attempt.log_fields)
        if self.worker.monitors and not attempt.paused:
            outcome = attempt.outcome if owned else "lease_lost"
            self.worker.monitors.on_finished(
                attempt.work, outcome, attempt.error, attempt.ran_seconds
            )

    async def _write(self, claim: Claim, write: Callable[[], Awaitable[bool]]) -> bool:
        while True:
            owner = claim.owner
            owned = await self.worker.availability.retry_until_accepted(
                "settling a job", write, lambda: self.draining
            )
            if owned or claim.owner == owner:  # else the worker has claimed it again meanwhile
                return owned

    async def _release(self, attempt: Attempt, decision: Retry) -> bool:
        job = b""
        if self.records_failures and attempt.error is not None:
            job, _ = attempt.failed.with_failure(attempt.error, attempt.serializer)
        claim, uncounted = attempt.claim, attempt.uncounted
        return await self.leases.release(claim, decision.delay, job=job, uncounted=uncounted)

    async def _dead_letter(self, attempt: Attempt, decision: DeadLetter) -> bool:
        source = attempt.claim.source
        fields = attempt.failed.dead_letter(
            attempt.error or RuntimeError("the error is unknown"),
            decision.reason,
            attempt.serializer,
            queue=source,
            worker=self.name,
        )
        dropped = await self.queue.dead_letter(
            self._as_finished(attempt),
            codec.encode_fields(fields),
            self.worker.config.dlq_max_entries,
        )
        dlq = keys.dlq(source)
        if dropped >= 0:
            why = "its worker died with it" if decision.reason == "poison" else decision.reason
            text = "%s is dead-lettered in %s (%s)"
            logger.error(text, attempt.ref, dlq, why, extra=attempt.log_fields)
        if dropped > 0:
            logger.error(failure_record.FULL, dlq, dropped)
        return dropped >= 0

    async def _finish(self, attempt: Attempt) -> bool:
        job = self._as_finished(attempt)
        if not self.finished.running:  # one pass without loops, or a job that outlived them
            return await self.queue.finish_one(job)
        owned: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.finished.add((job, owned))
        return await owned

    def _as_finished(self, attempt: Attempt) -> FinishedJob:
        settings = self.worker.settings
        keep_s, forever = settings.config.keep_result, settings.keep_result_forever
        return attempt.finished(keep_s, forever=forever)

    async def _write_finished(
        self, batch: "list[tuple[FinishedJob, asyncio.Future[bool]]]"
    ) -> None:
        lost = set(await self.queue.finish([job for job, _ in batch]))
        for job, owned in batch:
            if not owned.done():
                owned.set_result(job.claim.job_id not in lost)
