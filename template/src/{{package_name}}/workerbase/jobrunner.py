# Owned by arq-worker-template: `copier update` overwrites edits; configure BaseArqWorkerSettings.
"""Runs claimed jobs as arq does, decides what follows, and tells Redis."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, cast
from uuid import uuid4

from arq.constants import retry_key_prefix
from arq.cron import CronJob
from arq.jobs import SerializationError
from arq.utils import args_to_string, ms_to_datetime, timestamp_ms, truncate
from arq.worker import Function, JobExecutionFailed, RetryJob, Worker
from arq.worker import Retry as ArqRetry

from . import deadletter, keys, wire
from .attempt import Attempt, Codec, RefusedError
from .batch import Batcher
from .connect import OUTAGE_ERRORS
from .jobqueue import TRIES_TTL_MS, Ended, JobQueue
from .link import RedisLink
from .monitor import Monitors
from .retry import DeadLetter, Reason, Retry, RetryPolicy
from .task_utils import Task
from .types import Ctx, RedisClient

logger = logging.getLogger(__name__)


class JobRunner(Worker):
    """An arq worker with retries and dead letters; `jobs.JobWorker` says which jobs it runs.

    It takes arq's arguments and these:

    Args:
        policy: when a job that raised is retried; without one the rules are plain arq's, and
            there are no dead letters.
        lease_timeout: a dead worker's jobs run again within so many seconds.
        dlq_max_entries: bound of the queue's DLQ.
        link: what the process knows about Redis.
        monitors: told what happens.
    """

    def __init__(
        self,
        functions: Sequence[Any] = (),
        *,
        policy: RetryPolicy | None = None,
        lease_timeout: float = 15.0,
        dlq_max_entries: int = 1_000_000,
        link: RedisLink | None = None,
        monitors: Monitors | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(functions, **arguments)
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._policy = policy
        self._lease_timeout = lease_timeout
        self._dlq_max_entries = dlq_max_entries
        self._link = link or RedisLink()
        self._monitors = monitors or Monitors()
        self._finisher = Batcher(self._finish, "ending jobs", self._link)
        self._codec = Codec.of(self.job_serializer, self.job_deserializer)
        self._draining = False

    @cached_property
    def _queue(self) -> JobQueue:
        client = cast("RedisClient", self.pool)
        return JobQueue(client, self.queue_name, self.name, self._lease_timeout)

    async def _attempt(self, attempt: Attempt) -> None:
        """Run the job and decide what is to follow."""
        try:
            await self._prepare(attempt)
        except RefusedError as refused:
            attempt.error = attempt.result = refused.error
            attempt.decision = refused.decision if self._policy else None
            self.jobs_failed += 1
            return
        function = cast("Function | CronJob", attempt.function)
        attempt.ctx = {
            **cast("Ctx", self.ctx),
            "job_id": attempt.claim.job_id,
            "job_try": attempt.job_try,
            "enqueue_time": ms_to_datetime(attempt.enqueue_ms),
            "score": int(attempt.claim.score),
        }
        began = time.monotonic()
        self.job_tasks[attempt.claim.job_id] = cast("asyncio.Task[Any]", asyncio.current_task())
        try:
            await self._hook("on_job_start", attempt)
            attempt.start_ms, began = timestamp_ms(), time.monotonic()
            self._log_start(attempt)
            attempt.result = await self._call(function, attempt)
            shown = self._shown(attempt.result)
        except (GeneratorExit, KeyboardInterrupt):
            raise  # thrown away at the end of the loop; Ctrl-C where no handler can be set
        except BaseException as exc:  # a task must not end the worker
            attempt.error = attempt.result = exc
            self._judge(attempt, exc)
        else:
            self.jobs_complete += 1
            logger.info("%6.2fs ← %s ● %s", attempt.seconds(attempt.start_ms), attempt.ref, shown)
        attempt.ran_seconds = time.monotonic() - began
        self.job_tasks.pop(attempt.claim.job_id, None)
        await self._hook("on_job_end", attempt)

    async def _call(self, function: Function | CronJob, attempt: Attempt) -> object:
        run: Callable[..., Awaitable[object]] = cast("Any", function.coroutine)
        if self._policy is not None:
            run = Task.of(function) or run
        timeout = self.job_timeout_s if function.timeout_s is None else function.timeout_s
        around: AbstractContextManager[object] = nullcontext()
        if self._monitors:
            around = self._monitors.running(attempt.work(self.queue_name))
        with around:
            async with asyncio.timeout(timeout):
                return await run(attempt.ctx, *attempt.args, **attempt.kwargs)

    def _shows_data(self) -> bool:
        """Whether arguments and results may be in the log: `log_results`, or level DEBUG."""
        return self.log_results or logger.isEnabledFor(logging.DEBUG)

    def _shown(self, result: object) -> str:
        if result is None or not self._shows_data() or not logger.isEnabledFor(logging.INFO):
            return ""
        return truncate(repr(result))

    async def _prepare(self, attempt: Attempt) -> None:
        """Read the job.

        Raises:
            RefusedError: it cannot be run.
        """
        claim = attempt.claim
        if claim.job is None:
            logger.warning("job %s expired", claim.job_id)
            raise RefusedError(JobExecutionFailed("job expired"))
        try:
            enqueued_try = attempt.read()
        except SerializationError as exc:
            logger.exception("deserializing job %s failed", claim.job_id)
            raise RefusedError(exc, "invalid") from None
        if claim.aborted:
            waited = attempt.seconds(attempt.enqueue_ms)
            logger.info("%6.2fs ⊘ %s aborted before start", waited, attempt.ref)
            raise RefusedError(asyncio.CancelledError())
        name = attempt.function_name
        attempt.function = self.functions.get(name)
        if attempt.function is None:
            logger.warning("job %s, function %r not found", claim.job_id, name)
            raise RefusedError(JobExecutionFailed(f"function {name!r} not found"), "unknown")
        if enqueued_try > attempt.job_try:
            attempt.job_try = enqueued_try
            await self.pool.psetex(retry_key_prefix + claim.job_id, TRIES_TTL_MS, str(enqueued_try))
        most = self._max_tries(attempt.function)
        if attempt.job_try > most:
            waited = attempt.seconds(attempt.enqueue_ms)
            logger.warning("%6.2fs ! %s max retries %d exceeded", waited, attempt.ref, most)
            reason: Reason = "poison" if claim.crashed else "retries"
            if self._policy is not None:
                attempt.job_try -= 1  # this one did not take place
            raise RefusedError(JobExecutionFailed(f"max {most} retries exceeded"), reason)

    def _max_tries(self, function: Function | CronJob) -> int:
        return self.max_tries if function.max_tries is None else function.max_tries

    def _policy_of(self, default: RetryPolicy, function: Function | CronJob) -> RetryPolicy:
        task = Task.of(function)
        policy = default if task is None else task.policy(default)
        return replace(policy, max_retries=self._max_tries(function))

    def _log_start(self, attempt: Attempt) -> None:
        if not logger.isEnabledFor(logging.INFO):
            return
        extra = f" try={attempt.job_try}" if attempt.job_try > 1 else ""
        late = (attempt.start_ms - attempt.claim.score) / 1000
        if late > 1.2:  # noqa: PLR2004 - arq's
            extra += f" delayed={late:0.2f}s"
        arguments = ""
        if attempt.args or attempt.kwargs:
            shown = self._shows_data()
            arguments = args_to_string(attempt.args, attempt.kwargs) if shown else "…"
        waited = attempt.seconds(attempt.enqueue_ms)
        logger.info("%6.2fs → %s(%s)%s", waited, attempt.ref, arguments, extra)

    def _judge(self, attempt: Attempt, error: BaseException) -> None:
        """Decide what follows a failure."""
        job_id, took = attempt.claim.job_id, attempt.seconds(attempt.start_ms)
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()  # the job was meant, not what is to be told about it
        if job_id in self.aborting_tasks and isinstance(error, asyncio.CancelledError):
            logger.info("%6.2fs ⊘ %s aborted", took, attempt.ref)
            self.jobs_failed += 1
        elif self.retry_jobs and isinstance(error, asyncio.CancelledError | RetryJob | ArqRetry):
            attempt.uncounted = self._draining and isinstance(error, asyncio.CancelledError)
            delay = ((error.defer_score or 0) if isinstance(error, ArqRetry) else 0) / 1000
            attempt.error = error.__cause__
            if isinstance(error, ArqRetry):
                logger.info("%6.2fs ↻ %s retrying job in %0.2fs", took, attempt.ref, delay)
            else:
                logger.info("%6.2fs ↻ %s cancelled, will be run again", took, attempt.ref)
            self.jobs_retried += 1
            attempt.decision = Retry(delay)
        else:
            self._judge_exception(attempt, error, took)

    def _judge_exception(self, attempt: Attempt, error: BaseException, took: float) -> None:
        what = f"{type(error).__name__}: {deadletter.text_of(error)}"
        if self._policy is not None and attempt.function is not None:
            policy = self._policy_of(self._policy, attempt.function)
            attempt.decision = policy.decide(error, attempt.job_try)
        if isinstance(attempt.decision, Retry) and not self.retry_jobs:
            attempt.decision = DeadLetter("retries")
        if isinstance(attempt.decision, Retry):
            wait = attempt.decision.delay
            logger.warning("%6.2fs ↻ %s failed, %s, retry in %.2fs", took, attempt.ref, what, wait)
            self.jobs_retried += 1
            return
        extra = getattr(error, "extra", None)
        logger.error(
            "%6.2fs ! %s failed, %s",
            took,
            attempt.ref,
            what,
            exc_info=error,
            extra={"extra": extra() if callable(extra) else extra},
        )
        self.jobs_failed += 1

    async def _hook(self, name: str, attempt: Attempt) -> None:
        hook = cast("Callable[[Ctx], Any] | None", getattr(self, name))
        if hook is None:
            return
        try:
            await hook(attempt.ctx)
        except Exception:
            logger.exception("%s of job %s failed; the job goes on", name, attempt.claim.job_id)

    # --- what came of it

    async def _settle(self, attempt: Attempt) -> None:
        decision = attempt.decision
        if isinstance(decision, Retry):
            write = partial(self._release, attempt, decision)
        elif isinstance(decision, DeadLetter):
            write = partial(self._bury, attempt, decision)
        else:
            write = partial(self._end, attempt)
        try:
            owned = await self._link.until_taken("settling a job", write, lambda: self._draining)
        except OUTAGE_ERRORS as exc:
            logger.warning("%s is not settled (%s); its lease runs out", attempt.ref, exc)
            return
        if not owned:
            logger.warning("%s ended after its lease had run out; it may run twice", attempt.ref)
        if self._monitors:
            outcome = attempt.outcome if owned else "lease_lost"
            work = attempt.work(self.queue_name)
            self._monitors.ended(work, outcome, attempt.error, attempt.ran_seconds)

    async def _release(self, attempt: Attempt, decision: Retry) -> bool:
        job = b""
        if self._policy is not None and attempt.error is not None:
            job, _ = attempt.rewritten(attempt.error)
        job_id, uncounted = attempt.claim.job_id, attempt.uncounted
        return await self._queue.release(job_id, decision.delay, job=job, uncounted=uncounted)

    async def _bury(self, attempt: Attempt, decision: DeadLetter) -> bool:
        letter = wire.flatten(attempt.letter(self.queue_name, self.name, decision.reason))
        dropped = await self._queue.bury(self._ended(attempt), letter, self._dlq_max_entries)
        dlq = keys.dlq(self.queue_name)
        if dropped >= 0:
            why = "its worker died with it" if decision.reason == "poison" else decision.reason
            logger.error("%s is dead-lettered in %s (%s)", attempt.ref, dlq, why)
        if dropped > 0:
            logger.error(deadletter.FULL, dlq, dropped)
        return dropped >= 0

    async def _end(self, attempt: Attempt) -> bool:
        ended = self._ended(attempt)
        if not self._finisher.running:  # one pass without loops, or a job that outlived them
            return not await self._queue.finish([ended])
        owned: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._finisher.add((ended, owned))
        return await owned

    def _ended(self, attempt: Attempt) -> Ended:
        return attempt.ended(
            self.queue_name, self.keep_result_s or 0, forever=self.keep_result_forever
        )

    async def _finish(self, batch: list[tuple[Ended, "asyncio.Future[bool]"]]) -> None:
        lost = set(await self._queue.finish([ended for ended, _ in batch]))
        for ended, owned in batch:
            if not owned.done():
                owned.set_result(ended.job_id not in lost)
