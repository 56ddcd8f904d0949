"""What a worker does for its queue twice a second: cron jobs, aborts, arq's health check key."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from arq.constants import abort_job_max_age

from ..broker import codec, keys
from ..broker.clock import now_ms
from ..broker.redis_errors import OUTAGE_ERRORS
from ..process.service import WorkerContext
from .cron import enqueue_due

logger = logging.getLogger(__name__)

PERIOD_S = 0.5


@dataclass(kw_only=True, eq=False)
class QueueUpkeep:
    """Looks after one queue."""

    worker: WorkerContext
    cancel: Callable[[str], bool]
    """Cancels a running job; false if it does not run here."""
    summary: Callable[[], str]
    """Describes the worker's jobs for the health check key."""

    def __post_init__(self) -> None:
        self._settings = self.worker.settings
        self._queue = self.worker.config.queue_name
        self._redis = self.worker.commands
        self._checked_at = float("-inf")
        self._logged = ""

    async def run(self) -> None:
        """Look after the queue until cancelled."""
        while True:
            try:
                if self._settings.allow_abort_jobs:
                    await self.cancel_aborted()
                await self.record_health()
                await self.enqueue_cron()
            except OUTAGE_ERRORS as exc:
                await self.worker.availability.back_off(exc, "enqueueing cron jobs")
            await asyncio.sleep(PERIOD_S)

    async def enqueue_cron(self) -> None:
        """Enqueue the cron jobs that are due soon: within two polls, as arq does."""
        if self._settings.cron_jobs:
            now_s = await now_ms(self._redis) / 1000
            now = datetime.fromtimestamp(now_s, self._settings.timezone)
            ahead = timedelta(seconds=2 * max(self._settings.config.poll_delay, PERIOD_S))
            cron_jobs = self._settings.cron_jobs
            await enqueue_due(self.worker.client, self._queue, cron_jobs, now, ahead)

    async def cancel_aborted(self) -> None:
        """Cancel the running jobs that somebody asked to abort."""
        requests = keys.abort(self._queue)
        wanted: list[bytes] = await self._redis.execute_command("ZRANGE", requests, 0, -1)
        for job_id in map(codec.decode, wanted):
            if self.cancel(job_id):
                await self._redis.execute_command("ZREM", requests, codec.encode(job_id))
        if wanted:  # as arq does; requests for jobs that had ended already remain
            oldest = await now_ms(self._redis) - abort_job_max_age * 1000
            await self._redis.execute_command("ZREMRANGEBYSCORE", requests, "-inf", oldest)

    async def record_health(self) -> None:
        """Write the key that ``arq --check`` reads."""
        if time.monotonic() - self._checked_at < self._settings.health_check_interval:
            return
        self._checked_at = time.monotonic()
        queued = await self._redis.execute_command("ZCARD", self._queue)
        counts = f"{self.summary()} queued={queued}"
        info = f"{datetime.now():%b-%d %H:%M:%S} {counts}"  # noqa: DTZ005 - local time, as arq
        ttl_ms = int((self._settings.health_check_interval + 1) * 1000)
        await self._redis.execute_command(
            "PSETEX", self._settings.health_check_key, ttl_ms, info.encode()
        )
        if self._logged and self._logged != counts:
            logger.info("recording health: %s", info)
        self._logged = counts
