"""arq's own worker as a service: the jobs of the queue where no other service runs them.

arq's worker exits when a command of Redis fails. This one survives: it goes on polling after an
outage, drains at a stop, and reports its health. What an outage costs follows from arq's rules: a
job that ends while Redis is unavailable, or whose worker dies, runs again once arq's in-progress
key has expired (the longest timeout and 15 s).
"""

import asyncio
import contextlib
import logging
import time

from ..broker import keys
from ..broker.redis_errors import OUTAGE_ERRORS
from ..broker.wakeup import WakeupListener
from ..engine.failure_record import text_of
from ..engine.supervisor import TaskSupervisor
from ..engine.vitals import Vitals
from . import job_failures
from .arq_worker import QueueWorker
from .service import Service, WorkerContext

logger = logging.getLogger(__name__)

CANCEL_S = 5.0
"""How long a cancelled job may take to end, and the last poll at a stop."""


class ArqJobs(Service):
    """Runs jobs with arq's worker."""

    name = "jobs"
    handles_jobs = True

    async def startup(self, worker: WorkerContext) -> None:
        """Make arq's worker."""
        self._context = worker
        self._worker = QueueWorker(worker, self._keep_refused)
        worker.aborting = self._worker.aborting_tasks
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
        started = self._worker.started
        while True:
            await self._worker.poll()
            if not self._worker.tasks:
                break
            await asyncio.wait(self._worker.tasks.values())
        return self._worker.started - started

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
            await self._worker.poll()
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
        await job_failures.dead_letter_refused(self._context, job_id, self._worker.functions)

    async def _uncount(self, job_ids: list[str]) -> None:
        """Do not count the attempts that a stop ends, so that the last one is made all the same."""
        async with self._context.client.pipeline(transaction=True) as pipe:
            for job_id in job_ids:
                key = keys.retry(self._worker.queue_name, job_id)
                pipe.decr(key)
                pipe.pexpire(key, keys.ATTEMPTS_TTL_MS)
            await pipe.execute()
