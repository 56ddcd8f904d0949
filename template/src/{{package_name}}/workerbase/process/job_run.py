"""How arq's worker runs a function: with monitors, a time limit and, for tasks, the retry policy.

That worker neither retries what raises nor keeps dead letters, so what it is given is wrapped.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, TypeVar, cast

from arq.cron import CronJob

from ..broker.job_record import FailedJob
from ..engine import current_run
from ..engine.failure_record import is_harmless
from ..engine.retry_policy import DeadLetter, Decision, Retry, unwrap
from ..errors import WorkerError
from ..monitor import Outcome, Work
from ..types import Ctx
from . import job_failures
from .arq_names import ArqRetry, Function, RetryJob
from .job_timeout import JobTimeout
from .service import WorkerContext, worker_of
from .task import Task, fits

Runnable = TypeVar("Runnable", Function, CronJob)

FOR_ARQ = (ArqRetry, RetryJob, asyncio.CancelledError, GeneratorExit)
"""What a task raises to arq or to the event loop, not as a failure of its own."""
SETTLE_S = 5.0
"""How long the failure of an attempt that reached its timeout may take to be recorded."""

sent_trace: ContextVar[str] = ContextVar("worker_job_trace", default="")
"""The sender's trace of the job that arq has just read, in the task that then runs it."""


class JobRun:
    """Replaces the coroutine function of a function or cron job.

    Args:
        declared: as the project declares it.
        seconds: the limit of one attempt.
    """

    def __init__(self, declared: Function | CronJob, seconds: float) -> None:
        self.declared = declared
        self._task = Task.from_function(declared)
        self._run = cast("Callable[..., Coroutine[Any, Any, Any]]", declared.coroutine)
        self._seconds = seconds

    @classmethod
    def wrap(cls, runnable: Runnable, job_timeout: float) -> Runnable:
        """Return a function or cron job for arq's worker; ``job_timeout`` is the default limit."""
        seconds = job_timeout if runnable.timeout_s is None else runnable.timeout_s
        run = cast("Any", cls(runnable, seconds))
        return replace(runnable, coroutine=run, timeout_s=seconds + SETTLE_S)

    @staticmethod
    def declared_of(runnable: Runnable) -> Runnable:
        """Undo `wrap`: a settings class may add to the functions of its parent.

        What was changed since, with ``replace`` for example, stays changed.
        """
        run: object = runnable.coroutine
        if not isinstance(run, JobRun):
            return runnable
        is_ours = runnable.timeout_s == run._seconds + SETTLE_S  # noqa: SLF001
        timeout_s = run.declared.timeout_s if is_ours else runnable.timeout_s
        return replace(runnable, coroutine=cast("Any", run.declared.coroutine), timeout_s=timeout_s)

    def __repr__(self) -> str:
        """Name the function."""
        return f"{type(self).__name__}({self.declared.name})"

    async def __call__(self, ctx: Ctx, /, *args: Any, **kwargs: Any) -> Any:
        """Run one attempt; no exception of it ends the worker."""
        worker = worker_of(ctx)
        if worker is None or "job_id" not in ctx:  # a ``ctx`` made by hand
            return await self._run(ctx, *args, **kwargs)
        job_id, attempt = str(ctx["job_id"]), cast("int", ctx["job_try"])
        queue, name, trace = worker.config.queue_name, self.declared.name, sent_trace.get()
        work = Work("job", queue, name, job_id, attempt, trace=trace)
        started = time.monotonic()
        error: BaseException | None = None
        outcome: Outcome = "failed"
        try:
            with worker.monitors.around(work):
                current_run.described.set(lambda: work)
                async with JobTimeout(self.declared, self._seconds):
                    result = await self._run(ctx, *args, **kwargs)
            outcome = "handled"
        except FOR_ARQ as exc:
            error, outcome = exc.__cause__, "aborted" if job_id in worker.aborting else "retried"
            raise
        except BaseException as exc:
            error = exc
            if self._task is not None:
                error = unwrap(exc)
                job = FailedJob(job_id, name, args, kwargs, attempt)
                decision = await self._settle(self._task, worker, ctx, job, error)
                if isinstance(decision, Retry):
                    outcome = "retried"
                    raise ArqRetry(decision.delay) from exc
                outcome = "dead_lettered"
            if is_harmless(exc):
                raise
            msg = f"the task raised {type(exc).__name__}"
            raise WorkerError(msg) from exc  # a task must not end the worker
        else:
            return result
        finally:
            current_run.described.set(None)  # what arq logs names the job itself
            worker.monitors.on_finished(work, outcome, error, time.monotonic() - started)

    async def _settle(
        self,
        task: Task[..., Any],
        worker: WorkerContext,
        ctx: Ctx,
        job: FailedJob,
        error: BaseException,
    ) -> Decision:
        """Decide what follows a failed attempt, and record it before arq ends the job.

        An outage of Redis delays it until the job's timeout.
        """
        policy = task.policy(worker.retry_policy)
        policy = replace(policy, max_retries=self.declared.max_tries or policy.max_retries)
        decision = policy.decide(error, job.attempt)
        if isinstance(error, TypeError) and not fits(task, job.args, job.kwargs):
            decision = DeadLetter("invalid")
        if isinstance(decision, Retry) and not worker.settings.retry_jobs:
            decision = DeadLetter("retries")
        if isinstance(decision, Retry):
            await job_failures.record(worker, ctx, job, error)
        else:
            await job_failures.dead_letter(worker, ctx, job, error, decision.reason)
        return decision
