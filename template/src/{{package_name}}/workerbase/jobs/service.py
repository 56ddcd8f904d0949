"""`LeasedJobs`: the service that runs the jobs of the queue under leases."""

import asyncio
import logging
import time

from ..config import WorkerConfig
from ..engine.vitals import Vitals
from ..process.service import Service, WorkerContext
from .config import LeasedJobsConfig
from .engine import JobEngine

logger = logging.getLogger(__name__)


class LeasedJobs(Service):
    """Runs the jobs of the queue under leases, in place of arq's own worker."""

    name = "jobs"
    handles_jobs = True
    config_type: type[WorkerConfig] = LeasedJobsConfig

    async def startup(self, worker: WorkerContext) -> None:
        """Build the engine."""
        config = worker.config
        assert isinstance(config, LeasedJobsConfig)  # noqa: S101 - the settings were resolved
        self.engine = JobEngine(worker, worker.retry_policy, config.lease_timeout, config.prefetch)

    async def serve(self, stop: asyncio.Event, drain: float) -> None:
        """Run jobs until ``stop`` is set, then drain."""
        queue, functions = self.engine.queue.name, self.engine.executor.functions
        logger.info("running jobs of %s: %s", queue, ", ".join(functions))
        await self.engine.serve(stop, drain)

    async def run_pending(self) -> int:
        """Run the jobs that are due now."""
        return await self.engine.run_due()

    def vitals(self) -> Vitals:
        """Report whether claims return; waiting for a free slot is no standstill."""
        since = self.engine.intake.claiming_since
        return Vitals("job queue", time.monotonic() if since is None else since)
