"""Intake, leases, executor and settlement of one worker, from start to drained stop."""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncGenerator
from uuid import uuid4

from ..broker.redis_errors import OUTAGE_ERRORS
from ..engine.retry_policy import Retry, RetryPolicy
from ..engine.supervisor import TaskSupervisor
from ..leasing.held_leases import HeldLeases
from ..leasing.prefetch_queue import PrefetchQueue
from ..leasing.renewer import LeaseRenewer, release
from ..process.service import WorkerContext
from .attempt import LeaseLostError
from .executor import JobExecutor
from .intake import JobIntake
from .leases import JobLeases
from .queue import Claim, JobQueue
from .settlement import JobSettlement
from .upkeep import QueueUpkeep

logger = logging.getLogger(__name__)

CANCEL_S = 5.0
"""How long a cancelled job may take to end."""


class JobEngine:
    """Runs the jobs of one queue for one worker.

    Args:
        worker: settings, client and monitors.
        policy: when a job that raised is retried; None means the rules of plain arq.
        lease_timeout: time within which the jobs of a dead worker run again, in seconds.
        prefetch: maximum number of claimed jobs that wait beside those that run.
    """

    def __init__(
        self,
        worker: WorkerContext,
        policy: RetryPolicy | None,
        lease_timeout: float,
        prefetch: int,
    ) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        redis, config = worker.commands, worker.config
        self._worker = worker
        self._queue_name = config.queue_name
        self.leases = JobLeases(redis, config.queue_name, self.name, lease_timeout)
        self.queue = JobQueue(redis, config.queue_name, self.name, self.leases.lease_ms)
        self.held: HeldLeases[Claim] = HeldLeases([config.queue_name])
        self.prefetched: PrefetchQueue[Claim] = PrefetchQueue(config.max_jobs, prefetch)
        self.renewer = LeaseRenewer(
            held=self.held,
            queue=self.prefetched,
            renew=self._renew,
            kind="job",
            lease_timeout=lease_timeout,
            availability=worker.availability,
            monitors=worker.monitors,
        )
        self.executor = JobExecutor(worker, policy, self.leases.renew)
        self.settlement = JobSettlement(
            worker=worker,
            name=self.name,
            queue=self.queue,
            leases=self.leases,
            records_failures=policy is not None,
        )
        self.intake = JobIntake(
            worker=worker,
            name=self.name,
            queue=self.queue,
            prefetched=self.prefetched,
            held=self.held,
            run=self._run,
            renew_overdue=self.renewer.renew_overdue,
            release_all=self.leases.release_all,
            lease_seconds=self.leases.lease_seconds,
        )
        self.upkeep = QueueUpkeep(worker=worker, cancel=self.executor.cancel, summary=self._summary)

    async def serve(self, stop: asyncio.Event, drain: float) -> None:
        """Run jobs until ``stop`` is set, then give them ``drain`` seconds to end.

        Raises:
            WorkerError: a loop exited unexpectedly; what ran was drained all the same.
        """
        async with self.running() as core:
            loops = TaskSupervisor()
            loops.start("jobs: claim", self.intake.claim_loop())
            loops.start("jobs: wake-ups", self.intake.listener.run())
            loops.start("jobs: upkeep", self.upkeep.run())
            try:
                await TaskSupervisor.run_until(stop, loops, core)
            except BaseException:
                self._worker.failed = True
                raise
            finally:
                await loops.cancel()
                await self._drain(drain)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[TaskSupervisor]:
        """Run the loops that running jobs need, until the last of them has ended."""
        core = TaskSupervisor()
        core.start("jobs: leases", self.renewer.run())
        core.start("jobs: finish", self.settlement.finished.run())
        try:
            yield core
        finally:
            await core.cancel()

    async def run_due(self) -> int:
        """Run the jobs that are due now and wait for them; return how many."""
        count = 0
        async with self.running():
            while True:
                await self.intake.claim(self._worker.config.max_jobs)
                if not self.intake.tasks:
                    return count
                count += len(self.intake.tasks)
                await asyncio.wait(self.intake.tasks.values())

    async def _renew(self, source: str, job_ids: list[str]) -> list[str]:
        held = self.held.by_source[source]
        return await self.leases.renew([held[job_id] for job_id in job_ids])

    async def _run(self, claim: Claim) -> None:
        """Run a claimed job and settle it."""
        started = time.monotonic()
        attempt = self.executor.new_attempt(claim)
        try:
            try:
                await self.executor.run(attempt)
            finally:
                self.executor.running.pop(claim.job_id, None)
                self.intake.finished(claim, time.monotonic() - started)
            await asyncio.shield(self.settlement.settle(attempt))
            if isinstance(attempt.decision, Retry):
                self.intake.wake()  # it may be due
            if attempt.ctx:
                hook = self._worker.settings.after_job_end
                await self.executor.call_hook(hook, "after_job_end", attempt)
        except LeaseLostError:
            pass  # it was logged, and whoever holds the job settles it
        except asyncio.CancelledError:
            raise
        except BaseException:  # it must not end this worker, and then the next one
            logger.exception("job %s could not be run to its end; it runs again", claim.job_id)
        finally:
            # A job that was released may have been claimed again before this.
            self.held.forget(claim)
            self.executor.aborting.discard(claim.job_id)  # it may have ended all the same
            if claim.suspect:
                self.intake.wake()  # the next suspect may be claimed

    async def _drain(self, drain: float) -> None:
        tasks = self.intake.tasks
        self.prefetched.close()
        waiting = self.held.forget_waiting()
        await release(
            "jobs",
            {self._queue_name: lambda: self.leases.release_all(self.held.ids(self._queue_name))},
            lambda _: bool(waiting),
            self._worker.availability,
        )
        if tasks:
            logger.info("draining: %d jobs are running", len(tasks))
            _, late = await asyncio.wait(tasks.values(), timeout=drain)
            if late:
                logger.warning(
                    "draining took longer than %g s; cancelling %d jobs and releasing them",
                    drain,
                    len(late),
                )
                self.settlement.draining = True
                self.executor.draining = not self._worker.failed
                # The others have ended, and are being settled.
                for task in list(self.executor.running.values()):
                    task.cancel()
                await asyncio.wait(late, timeout=CANCEL_S)
        with contextlib.suppress(*OUTAGE_ERRORS):  # it expires by itself
            key = self._worker.settings.health_check_key
            async with self._worker.availability.parting():
                await self._worker.commands.execute_command("DEL", key)

    def _summary(self) -> str:
        counts = self.executor
        running = sum(not task.done() for task in self.intake.tasks.values())
        return (
            f"j_complete={counts.complete} j_failed={counts.failed} "
            f"j_retried={counts.retried} j_ongoing={running}"
        )
