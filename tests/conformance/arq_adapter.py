"""Our job engine behind the names of arq's `Worker`, for arq's own test suite.

What is arq's here: the constructor with its checks, signal handling, the main loop with its burst
mode, ``run``, ``run_check``, ``close`` and ``repr``. What is ours: claiming, running and settling
of jobs, aborts, cron jobs and the health check key.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Never, cast

from arq.connections import create_pool
from arq.worker import Function, Worker
from workerbase.broker.enqueue import QueueClient
from workerbase.engine.retry_policy import RetryPolicy
from workerbase.jobs.config import LeasedJobsConfig
from workerbase.jobs.cron import enqueue_due
from workerbase.jobs.engine import JobEngine
from workerbase.process.service import ResolvedSettings, WorkerContext

LEASE_TIMEOUT_S = 15.0
PREFETCH = 500


class _Count:
    """A counter of arq's worker that the executor keeps."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, worker: "EngineWorker", owner: type) -> int:
        engine = vars(worker).get("engine")
        return 0 if engine is None else cast("int", getattr(engine.executor, self._name))

    def __set__(self, worker: "EngineWorker", value: int) -> None:
        assert value == 0, "only arq's constructor sets it"


class EngineWorker(Worker):
    """arq's worker with our engine in it.

    Args:
        policy: when a job that raised is retried; None means the rules of plain arq.
    """

    jobs_complete = _Count("complete")  # type: ignore[assignment]
    jobs_failed = _Count("failed")  # type: ignore[assignment]
    jobs_retried = _Count("retried")  # type: ignore[assignment]

    def __init__(
        self,
        functions: Sequence[Any] = (),
        *,
        policy: RetryPolicy | None = RetryPolicy(base=0.0),  # noqa: B008 - it is frozen
        **arguments: Any,
    ) -> None:
        super().__init__(functions, **arguments)
        self._policy = policy

    @cached_property
    def engine(self) -> JobEngine:
        """The engine; made late, since arq opens its pool late and its suite changes settings."""
        redis = cast("QueueClient", self.pool)
        worker = WorkerContext(settings=self._settings(), ctx=self.ctx, redis=redis)
        engine = JobEngine(worker, self._policy, LEASE_TIMEOUT_S, PREFETCH)
        self.tasks, self.job_tasks = engine.intake.tasks, engine.executor.running
        self.aborting_tasks = engine.executor.aborting
        return engine

    def _settings(self) -> ResolvedSettings:
        # A copy is not validated: the suite polls without a delay.
        config = LeasedJobsConfig().model_copy(
            update={
                "queue_name": self.queue_name,
                "max_jobs": self.max_jobs,
                "job_timeout": self.job_timeout_s,
                "keep_result": self.keep_result_s,
                "poll_delay": self.poll_delay_s,
                "max_retries": self.max_tries,
            }
        )
        return ResolvedSettings(
            config=config,
            functions=tuple(f for f in self.functions.values() if isinstance(f, Function)),
            cron_jobs=tuple(self.cron_jobs),
            on_job_start=cast("Any", self.on_job_start),
            on_job_end=cast("Any", self.on_job_end),
            after_job_end=cast("Any", self.after_job_end),
            keep_result_forever=self.keep_result_forever,
            retry_jobs=self.retry_jobs,
            allow_abort_jobs=self.allow_abort_jobs,
            job_serializer=cast("Any", self.job_serializer),
            job_deserializer=cast("Any", self.job_deserializer),
            expires_extra_ms=self.expires_extra_ms,
            timezone=cast("Any", self.timezone),
            health_check_interval=self.health_check_interval or 0.0,
            health_check_key=self.health_check_key,
            log_results=self.log_results,
        )

    async def main(self) -> None:
        """Run arq's main loop beside the loops that running jobs need."""
        if self._pool is None:  # arq would open it here, too
            self._pool = await create_pool(
                self.redis_settings,
                job_deserializer=self.job_deserializer,
                job_serializer=self.job_serializer,
                default_queue_name=self.queue_name,
                expires_extra_ms=self.expires_extra_ms,
            )
        async with self.engine.running():
            await super().main()

    async def _poll_iteration(self) -> None:
        limit = self.queue_read_limit
        if self.burst and self.max_burst_jobs >= 0:
            waiting = len(self.engine.prefetched)
            limit = self.max_burst_jobs - self._jobs_started() - waiting
        await self._claim(limit)
        if self.allow_abort_jobs:
            await self.engine.upkeep.cancel_aborted()
        await self.heart_beat()

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        """Start as many jobs: which ones is decided by the script that claims them."""
        await self._claim(len(job_ids))

    async def _claim(self, limit: int) -> None:
        limit = min(limit, self.engine.intake.free())
        if self.allow_pick_jobs and limit > 0:
            await self.engine.intake.claim(limit)

    async def record_health(self) -> None:
        """Write the health check key."""
        await self.engine.upkeep.record_health()

    async def run_cron(self, n: datetime, delay: float, num_windows: int = 2) -> None:
        """Enqueue the cron jobs that are due soon."""
        if self.cron_jobs:
            ahead = timedelta(seconds=delay * num_windows)
            await enqueue_due(self._client, self.queue_name, self.cron_jobs, n, ahead)

    @cached_property
    def _client(self) -> QueueClient:
        """A client of ours on arq's pool."""
        return QueueClient(
            self.pool.connection_pool,
            job_serializer=self.job_serializer,
            default_queue_name=self.queue_name,
            expires_extra_ms=self.expires_extra_ms,
        )

    async def _never(self, *_: object, **__: object) -> Never:
        raise AssertionError("arq's own worker must neither run nor settle a job here")

    run_job = finish_job = finish_failed_job = _cancel_aborted_jobs = _never  # type: ignore[assignment]
