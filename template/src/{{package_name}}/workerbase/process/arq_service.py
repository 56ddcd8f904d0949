"""arq's own worker as a service: the jobs of the queue where no other service runs them.

arq's worker exits when a command of Redis fails. This one survives: it goes on polling after an
outage, drains at a stop, and reports its health. What an outage costs follows from arq's rules: a
job that ends while Redis is unavailable, or whose worker dies, runs again once arq's in-progress
key has expired (the longest timeout and 15 s).
"""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import fields, replace
from typing import Any, TypeVar, cast

from arq.cron import CronJob
from arq.jobs import Deserializer, SerializationError, deserialize_job_raw
from arq.utils import to_unix_ms

from ..broker import keys
from ..broker.job_record import JobFields
from ..broker.redis_errors import OUTAGE_ERRORS
from ..broker.wakeup import WakeupListener
from ..engine import current_run
from ..engine.failure_record import is_harmless, text_of
from ..engine.pauses import Paused
from ..engine.retry_policy import Retry, unwrap
from ..engine.supervisor import TaskSupervisor
from ..engine.vitals import Vitals
from ..errors import WorkerError
from ..monitor import Outcome, Work
from ..types import Ctx
from . import job_failures
from .arq_names import ArqRetry, Function, Worker
from .service import Service, WorkerContext
from .settings import arq_arguments
from .task import FOR_ARQ, JobTimeout, Task

logger = logging.getLogger(__name__)

CANCEL_S = 5.0
"""How long a cancelled job may take to end, and the last poll at a stop."""
SETTLE_S = 5.0
"""How long the failure of an attempt that reached its timeout may take to be recorded."""
ATTEMPTS_TTL_S = 88_400
"""How long arq remembers the attempts of a job, in seconds."""

Runnable = TypeVar("Runnable", Function, CronJob)

_trace: ContextVar[str] = ContextVar("worker_job_trace", default="")
"""The sender's trace of the job that arq has just read, in the task that then runs it."""


def _checked(read: Deserializer) -> Deserializer:
    """Let arq read only jobs that it can run, and keep the trace; what it cannot read it ends."""

    def load(written: bytes) -> dict[str, Any]:
        job = JobFields.read(written, read)
        _trace.set(job.trace)
        return {
            "f": job.function, "a": job.args, "k": job.kwargs, "t": job.attempts or None,
            "et": job.enqueue_ms,
        }  # fmt: skip

    return load


class _QueueCronJob(CronJob):
    """A cron job whose ticks have the ids of its queue; see `keys.tick_job_id`."""

    queue = ""

    @classmethod
    def from_job(cls, job: CronJob, queue: str) -> "_QueueCronJob":
        made = cls(**{field.name: getattr(job, field.name) for field in fields(job)})
        made.queue = queue
        return made

    def __getattribute__(self, name: str) -> Any:
        # arq asks for this id when it enqueues a tick, and makes one without the queue if it is
        # None.
        found = super().__getattribute__(name)
        if name == "job_id" and found is None and self.unique and self.next_run is not None:
            return keys.tick_job_id(self.queue, self.name, to_unix_ms(self.next_run))
        return found


class _Worker(Worker):
    """arq's worker, which loses no slot when Redis fails and can be stopped between two jobs."""

    paused = Paused()
    """What is not started; that of the worker."""
    hides_more = False
    """Whether more jobs may be due behind those that were put back."""
    taken = 0
    """Number of jobs that have been started and still hold their slot."""
    on_refused: Callable[[str], Coroutine[Any, Any, None]]
    """Called with the id of a job that arq ends without running it."""

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        for job_id in await self._startable(job_ids):
            if not self.allow_pick_jobs or self.job_counter >= self.max_jobs:
                return
            name = job_id.decode()
            before = self.tasks.get(name)
            try:
                await super().start_jobs([job_id])
            finally:
                self.taken += self.tasks.get(name) is not before
                # arq takes the slot before it asks Redis for the job.
                while self.job_counter > self.taken:
                    super()._release_sem_dec_counter_on_complete()

    async def _startable(self, job_ids: list[bytes]) -> list[bytes]:
        """Return the jobs that are not paused.

        Those of paused tasks are put back without being started: no attempt has to be taken back,
        and no hook hears of them.
        """
        if self.paused.queue:
            return []
        if not (self.paused.any and job_ids):
            return job_ids
        queue, ids = self.queue_name, [job_id.decode() for job_id in job_ids]
        names = [keys.job(queue, i) for i in ids] + [keys.in_progress(queue, i) for i in ids]
        found = await self.pool.mget(names)
        held = {
            job_id: time.time() * 1000 + self.paused.delay() * 1000
            for job_id, job, running in zip(job_ids, found, found[len(ids) :], strict=False)
            if job and not running and self.paused.task(self._names_of(job))
        }
        if held:
            await self.pool.zadd(queue, cast("Any", held), xx=True)
            self.hides_more = len(job_ids) >= self.queue_read_limit
        return [job_id for job_id in job_ids if job_id not in held]

    def _names_of(self, job: bytes) -> set[str]:
        """Return the names of the function of a job; none if it cannot run, which arq reports."""
        try:
            name = deserialize_job_raw(job, deserializer=self.job_deserializer)[0]
        except SerializationError:
            return set()
        function = self.functions.get(name)
        return set() if function is None else Task.names_of(function)

    async def finish_failed_job(self, job_id: str, result_data: bytes | None) -> None:
        await self.on_refused(job_id)
        await super().finish_failed_job(job_id, result_data)

    def _release_sem_dec_counter_on_complete(self) -> None:
        super()._release_sem_dec_counter_on_complete()
        self.taken -= 1


class ArqJobs(Service):
    """Runs jobs with arq's worker."""

    name = "jobs"
    handles_jobs = True

    async def startup(self, worker: WorkerContext) -> None:
        """Make arq's worker."""
        self._context = worker
        settings = worker.settings
        arguments = arq_arguments(settings)
        arguments["functions"] = [self._observed(function) for function in settings.functions]
        queue = worker.config.queue_name
        jobs = [_QueueCronJob.from_job(self._observed(j), queue) for j in settings.cron_jobs]
        arguments["cron_jobs"] = jobs or None
        arguments["job_deserializer"] = _checked(settings.job_deserializer)
        self._worker: Any = _Worker(
            **arguments, redis_pool=worker.client, ctx=worker.ctx, handle_signals=False
        )
        self._worker.ctx["redis"] = worker.client
        self._worker.paused = worker.paused
        self._worker.on_refused = self._keep_refused
        self._wake = asyncio.Event()
        self._polling_since: float | None = None

    def vitals(self) -> Vitals:
        """Report whether the queue is polled."""
        since = self._polling_since
        return Vitals("job queue", time.monotonic() if since is None else since)

    async def serve(self, stop: asyncio.Event, drain: float) -> None:
        """Run jobs until ``stop`` is set; cancel those that do not end within ``drain`` seconds."""
        queue, context = self._worker.queue_name, self._context
        logger.info("running jobs of %s with arq: %s", queue, ", ".join(self._worker.functions))
        listener = WakeupListener(
            context.client, [keys.wake(queue)], self._on_wakeup, context.availability
        )
        loops = TaskSupervisor()
        polling = loops.start("jobs: poll", self._poll_loop())
        loops.start("jobs: wake-ups", listener.run())
        try:
            await TaskSupervisor.run_until(stop, loops)
        except BaseException:
            context.failed = True
            raise
        finally:
            # A job that is cancelled while arq starts it would wait for its in-progress key.
            self._worker.allow_pick_jobs = False
            self._wake.set()
            await asyncio.wait({polling}, timeout=CANCEL_S)
            await loops.cancel()
            await self._drain(drain)

    def _on_wakeup(self, _channel: bytes, _job_id: bytes) -> None:
        self._wake.set()

    async def run_pending(self) -> int:
        """Run the jobs that are due now."""
        started = self._worker._jobs_started()  # noqa: SLF001
        while True:
            await self._worker._poll_iteration()  # noqa: SLF001
            if not self._worker.tasks:
                break
            await asyncio.wait(self._worker.tasks.values())
        return int(self._worker._jobs_started() - started)  # noqa: SLF001

    async def _poll_loop(self) -> None:
        while self._worker.allow_pick_jobs:
            self._wake.clear()
            self._polling_since = time.monotonic()
            await self._poll()
            self._polling_since = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._worker.poll_delay_s):
                    await self._wake.wait()

    async def _poll(self) -> None:
        """Start what is due."""
        availability = self._context.availability
        self._forget_unfinished()
        try:
            await self._worker._poll_iteration()  # noqa: SLF001
        except OUTAGE_ERRORS as exc:
            await availability.back_off(exc, "polling the job queue, or ending a job")
            self._wake.set()
        except Exception:
            logger.exception("polling the job queue failed; trying again")
        else:
            availability.record_success()
            if self._worker.hides_more:
                self._worker.hides_more = False
                self._wake.set()

    def _forget_unfinished(self) -> None:
        """Forget ended jobs whose end Redis did not accept; arq would raise one in each poll."""
        for job_id, task in list(self._worker.tasks.items()):
            if task.done() and (task.cancelled() or task.exception()):
                del self._worker.tasks[job_id]
                error = None if task.cancelled() else task.exception()
                why = "cancelled" if error is None else f"{type(error).__name__}: {text_of(error)}"
                logger.warning("job %s could not be ended (%s); arq runs it again", job_id, why)

    async def _drain(self, drain: float) -> None:
        tasks: dict[str, asyncio.Task[None]] = dict(self._worker.tasks)
        if tasks:
            logger.info("draining: %d jobs are running", len(tasks))
            _, late = await asyncio.wait(tasks.values(), timeout=drain)
            if late:
                logger.warning(
                    "draining took longer than %g s; cancelling %d jobs, which run again",
                    drain,
                    len(late),
                )
                if not self._context.failed:
                    with contextlib.suppress(*OUTAGE_ERRORS):
                        async with self._context.availability.parting():
                            ended = [job_id for job_id, task in tasks.items() if task in late]
                            await self._uncount(ended)
                for task in late:
                    task.cancel()
                await asyncio.wait(late, timeout=CANCEL_S)
            self._forget_unfinished()
        with contextlib.suppress(*OUTAGE_ERRORS):  # it expires by itself
            async with self._context.availability.parting():
                await self._context.client.delete(self._worker.health_check_key)

    async def _keep_refused(self, job_id: str) -> None:
        """Keep what arq ends without running it as a dead letter."""
        kept = await job_failures.dead_letter_refused(self._context, job_id, self._worker.functions)
        if kept is not None:
            job, error = kept
            name = job.function or "?"
            work = Work("job", self._worker.queue_name, name, job_id, job.attempt)
            self._context.monitors.on_finished(work, "dead_lettered", error, 0.0)

    async def _uncount(self, job_ids: list[str]) -> None:
        """Do not count the attempts that a stop ends, so that the last one is made all the same."""
        async with self._context.client.pipeline(transaction=True) as pipe:
            for job_id in job_ids:
                key = keys.retry(self._worker.queue_name, job_id)
                pipe.decr(key)
                pipe.expire(key, ATTEMPTS_TTL_S)
            await pipe.execute()

    def _observed(self, function: Runnable) -> Runnable:
        """Wrap a function, so that monitors observe it and no exception ends the worker.

        A task is retried and dead-lettered by its policy, also when it reaches its timeout.
        """
        run = cast("Callable[..., Coroutine[Any, Any, Any]]", function.coroutine)
        task = Task.from_function(function)
        limit = function.timeout_s
        if limit is None:
            limit = self._context.config.job_timeout

        @functools.wraps(run)
        async def observed(ctx: Ctx, *args: Any, **kwargs: Any) -> Any:
            monitors = self._context.monitors
            job_id, attempt = str(ctx["job_id"]), cast("int", ctx["job_try"])
            queue, trace = self._worker.queue_name, _trace.get()
            work = Work("job", queue, function.name, job_id, attempt, trace=trace)
            started = time.monotonic()
            error: BaseException | None = None
            outcome: Outcome = "failed"
            try:
                with monitors.around(work):
                    current_run.described.set(lambda: work)
                    async with JobTimeout(function, limit):
                        result = await (task or run)(ctx, *args, **kwargs)
                outcome = "handled"
            except FOR_ARQ as exc:
                aborted = job_id in self._worker.aborting_tasks
                error, outcome = exc.__cause__, "aborted" if aborted else "retried"
                raise
            except BaseException as exc:
                error = unwrap(exc) if task else exc
                if task is not None:
                    decision = await task.settle(
                        ctx, exc, args, kwargs, name=function.name, tries=function.max_tries
                    )
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
                monitors.on_finished(work, outcome, error, time.monotonic() - started)

        return replace(function, coroutine=cast("Any", observed), timeout_s=limit + SETTLE_S)
