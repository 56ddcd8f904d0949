"""Runs claimed jobs as arq does, and decides what follows."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, cast

from arq.cron import CronJob
from arq.jobs import SerializationError
from arq.utils import args_to_string, ms_to_datetime, timestamp_ms, truncate

from ..broker import keys
from ..engine import current_run, failure_record
from ..engine.retry_policy import DeadLetter, Reason, Retry, RetryPolicy, unwrap
from ..process.arq_names import ArqRetry, Function, JobExecutionFailed, RetryJob
from ..process.job_timeout import JobTimeout
from ..process.service import WorkerContext
from ..process.task import Task, fits
from ..types import Hook
from .attempt import Attempt, LeaseLostError, RefusedError
from .queue import Claim

logger = logging.getLogger(__name__)

MAX_UNREMARKABLE_DELAY_S = 1.2
"""A job that starts later than this after it was due is logged as delayed, as arq does."""


class JobExecutor:
    """Runs jobs and judges their failures.

    Args:
        worker: settings, client and monitors.
        policy: when a job that raised is retried; without one the rules are those of plain arq,
            and there are no dead letters.
        renew: renews leases; returns the ids of jobs that are no longer held.
    """

    def __init__(
        self,
        worker: WorkerContext,
        policy: RetryPolicy | None,
        renew: Callable[[Sequence[Claim]], Awaitable[list[str]]],
    ) -> None:
        settings = self.settings = worker.settings
        self.functions: dict[str, Function | CronJob] = {f.name: f for f in settings.functions}
        self.functions |= {job.name: job for job in settings.cron_jobs}
        self.serializer = settings.serializer
        self.policy = policy
        self.running: dict[str, asyncio.Task[Any]] = {}
        """The task of each job whose function runs."""
        self.aborting: set[str] = set()
        """Jobs that were cancelled because somebody asked to abort them."""
        self.draining = False
        """Cancellations come from the stop of the worker, and their attempts do not count."""
        self.complete = self.failed = self.retried = 0
        self._worker, self._renew = worker, renew

    def cancel(self, job_id: str) -> bool:
        """Abort a job on request; false if it does not run here."""
        task = self.running.get(job_id)
        if task is None:
            return False
        self.aborting.add(job_id)
        task.cancel()
        return True

    def new_attempt(self, claim: Claim) -> Attempt:
        """Return the attempt of a claimed job."""
        return Attempt(claim, self.serializer, claim.attempt)

    async def run(self, attempt: Attempt) -> None:
        """Run the job and decide what follows.

        Raises:
            LeaseLostError: it was not run, and nothing follows.
        """
        try:
            await self._prepare(attempt)
        except RefusedError as refused:
            attempt.error = attempt.result = refused.error
            attempt.decision = refused.decision if self.policy else None
            self.failed += 1
            return
        if attempt.paused:
            return
        function = cast("Function | CronJob", attempt.function)
        job_id = attempt.claim.job_id
        attempt.ctx = {
            **self._worker.ctx,
            "job_id": job_id,
            "job_try": attempt.number,
            "enqueue_time": ms_to_datetime(attempt.enqueue_ms),
            "score": int(attempt.claim.score),
        }
        began = time.monotonic()
        self.running[job_id] = cast("asyncio.Task[Any]", asyncio.current_task())
        around: AbstractContextManager[object] = nullcontext()
        if self._worker.monitors:
            around = self._worker.monitors.around(attempt.work)
        try:
            with around:
                await self.call_hook(self.settings.on_job_start, "on_job_start", attempt)
                attempt.start_ms, began = timestamp_ms(), time.monotonic()
                self._log_start(attempt)
                attempt.result = await self._call(function, attempt)
            shown = self._shown(attempt.result)
        except GeneratorExit:
            raise  # discarded at the end of the loop
        except BaseException as raised:  # a task must not end the worker
            exc = attempt.error = attempt.result = unwrap(raised)
            self._judge(attempt, exc)
        else:
            self.complete += 1
            took = attempt.seconds(attempt.start_ms)
            logger.log(attempt.log_level, "%6.2fs ← %s ● %s", took, attempt.ref, shown)
        attempt.ran_seconds = time.monotonic() - began
        self.running.pop(job_id, None)
        await self.call_hook(self.settings.on_job_end, "on_job_end", attempt)

    async def call_hook(self, hook: Hook | None, name: str, attempt: Attempt) -> None:
        """Call a hook of the job; what it raises does not harm the job."""
        if hook is None:
            return
        try:
            await hook(attempt.ctx)
        except Exception:
            job_id = attempt.claim.job_id
            logger.exception("%s of job %s failed; the job continues", name, job_id)

    async def _call(self, function: Function | CronJob, attempt: Attempt) -> object:
        run: Callable[..., Awaitable[object]] = cast("Any", function.coroutine)
        timeout = function.timeout_s
        if timeout is None:
            timeout = self.settings.config.job_timeout
        current_run.described.set(lambda: attempt.work)
        try:
            async with JobTimeout(function, timeout):
                return await run(attempt.ctx, *attempt.args, **attempt.kwargs)
        finally:
            current_run.described.set(None)  # what follows names the job itself

    def _shows_data(self) -> bool:
        """Whether arguments and results may be logged: `log_results`, or level DEBUG."""
        return self.settings.log_results or logger.isEnabledFor(logging.DEBUG)

    def _shown(self, result: object) -> str:
        if result is None or not self._shows_data() or not logger.isEnabledFor(logging.INFO):
            return ""
        return truncate(repr(result))

    async def _prepare(self, attempt: Attempt) -> None:
        """Read the job.

        Raises:
            RefusedError: it cannot be run.
            LeaseLostError: it is not to be run here.
        """
        claim = attempt.claim
        if claim.job is None:
            logger.warning("job %s expired", claim.job_id)
            raise RefusedError(JobExecutionFailed("job expired"))
        try:
            enqueued_attempt = attempt.read()
        except SerializationError as exc:
            logger.exception("deserializing job %s failed", claim.job_id)
            raise RefusedError(exc, "invalid") from None
        if claim.aborted:
            waited = attempt.seconds(attempt.enqueue_ms)
            logger.info("%6.2fs ⊘ %s aborted before start", waited, attempt.ref)
            raise RefusedError(asyncio.CancelledError())
        attempt.function = self._function_of(attempt)
        paused = self._worker.paused
        if paused.any and paused.task(Task.names_of(attempt.function)):
            attempt.paused = attempt.uncounted = True
            attempt.decision = Retry(paused.delay())
            return
        if enqueued_attempt > attempt.number:
            attempt.number = enqueued_attempt
            key = keys.retry(claim.source, claim.job_id)
            await self._worker.commands.execute_command(
                "PSETEX", key, keys.ATTEMPTS_TTL_MS, str(enqueued_attempt)
            )
        limit = self._max_attempts(attempt.function)
        if claim.unconfirmed:  # the attempt before this one may not have taken place
            attempt.number = min(attempt.number, limit)
        if attempt.number == limit and not await self._confirm(claim):
            logger.warning("the lease of %s ended before it started", attempt.ref)
            raise LeaseLostError
        if attempt.number > limit:
            waited = attempt.seconds(attempt.enqueue_ms)
            logger.warning("%6.2fs ! %s max retries %d exceeded", waited, attempt.ref, limit)
            reason: Reason = "poison" if claim.crashed else "retries"
            if self.policy is not None:
                attempt.number -= 1  # this one did not take place
            why = "; its worker died with it in the last attempt" if claim.crashed else ""
            raise RefusedError(JobExecutionFailed(f"max {limit} retries exceeded{why}"), reason)

    def _function_of(self, attempt: Attempt) -> Function | CronJob:
        """Return the function of a job.

        Raises:
            RefusedError: there is none of its name.
        """
        name = attempt.function_name
        found = self.functions.get(name)
        if found is None:
            logger.warning("job %s, function %r not found", attempt.claim.job_id, name)
            raise RefusedError(JobExecutionFailed(f"function {name!r} not found"), "unknown")
        return found

    async def _confirm(self, claim: Claim) -> bool:
        """Note in Redis that a last attempt starts: if its worker dies, there is no other one."""
        lost = await self._worker.availability.retry_until_accepted(
            "starting a job", partial(self._renew, [claim]), lambda: self.draining
        )
        return not lost

    def _max_attempts(self, function: Function | CronJob) -> int:
        own = function.max_tries
        return self.settings.config.max_retries if own is None else own

    def _policy_of(self, default: RetryPolicy, function: Function | CronJob) -> RetryPolicy:
        task = Task.from_function(function)
        policy = default if task is None else task.policy(default)
        return replace(policy, max_retries=self._max_attempts(function))

    def _log_start(self, attempt: Attempt) -> None:
        if not logger.isEnabledFor(attempt.log_level):
            return
        extra = f" try={attempt.number}" if attempt.number > 1 else ""
        late = (attempt.start_ms - attempt.claim.score) / 1000
        if late > MAX_UNREMARKABLE_DELAY_S:
            extra += f" delayed={late:0.2f}s"
        arguments = ""
        if attempt.args or attempt.kwargs:
            shown = self._shows_data()
            arguments = args_to_string(attempt.args, attempt.kwargs) if shown else "…"
        waited = attempt.seconds(attempt.enqueue_ms)
        message = "%6.2fs → %s(%s)%s"
        logger.log(attempt.log_level, message, waited, attempt.ref, arguments, extra)

    def _judge(self, attempt: Attempt, error: BaseException) -> None:
        """Decide what follows a failure."""
        job_id, took = attempt.claim.job_id, attempt.seconds(attempt.start_ms)
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()  # the job was meant, not the code that settles it
        if job_id in self.aborting and isinstance(error, asyncio.CancelledError):
            logger.info("%6.2fs ⊘ %s aborted", took, attempt.ref)
            self.failed += 1
        elif self.settings.retry_jobs and isinstance(
            error, asyncio.CancelledError | RetryJob | ArqRetry
        ):
            attempt.uncounted = self.draining and isinstance(error, asyncio.CancelledError)
            delay = ((error.defer_score or 0) if isinstance(error, ArqRetry) else 0) / 1000
            attempt.error = error.__cause__
            if isinstance(error, ArqRetry):
                message = "%6.2fs ↻ %s retrying job in %0.2fs"
                logger.log(attempt.log_level, message, took, attempt.ref, delay)
            else:
                logger.info("%6.2fs ↻ %s cancelled, will be run again", took, attempt.ref)
            self.retried += 1
            attempt.decision = Retry(delay)
        else:
            self._judge_exception(attempt, error, took)

    def _judge_exception(self, attempt: Attempt, error: BaseException, took: float) -> None:
        what = f"{type(error).__name__}: {failure_record.text_of(error)}"
        if self.policy is not None and attempt.function is not None:
            policy = self._policy_of(self.policy, attempt.function)
            attempt.decision = policy.decide(error, attempt.number)
            run = attempt.function.coroutine
            if isinstance(error, TypeError) and not fits(run, attempt.args, attempt.kwargs):
                attempt.decision = DeadLetter("invalid")
        if isinstance(attempt.decision, Retry) and not self.settings.retry_jobs:
            attempt.decision = DeadLetter("retries")
        if isinstance(attempt.decision, Retry):
            wait = attempt.decision.delay
            logger.warning("%6.2fs ↻ %s failed, %s, retry in %.2fs", took, attempt.ref, what, wait)
            self.retried += 1
            return
        extra = getattr(error, "extra", None)
        logger.error(
            "%6.2fs ! %s failed, %s",
            took,
            attempt.ref,
            what,
            exc_info=self._worker.tracebacks.first(error),
            extra={"extra": extra() if callable(extra) else extra},
        )
        self.failed += 1
