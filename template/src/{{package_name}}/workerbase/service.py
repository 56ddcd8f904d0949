# Owned by arq-worker-template: `copier update` overwrites edits; subclass BaseArqService instead.
"""Enqueue jobs from inside a worker."""

import asyncio
from types import TracebackType
from typing import Any, Self, cast

from arq.jobs import Job

from .config import WorkerConfig
from .jobqueue import QueueClient
from .types import Call, RedisClient


class BaseArqService:
    """Enqueues jobs from inside a worker; subclass it to name your jobs.

    The connection opens on first use, and again after `close`.
    """

    def __init__(self, config: WorkerConfig | None = None) -> None:
        self._config = config
        self._pool: QueueClient | None = None
        self._lock = asyncio.Lock()

    async def init(self) -> None:
        """Open the connection and check it.

        Raises:
            redis.exceptions.RedisError: Redis does not answer.
        """
        pool = await self._open()
        await cast("RedisClient", pool).execute_command("PING")

    async def close(self) -> None:
        """Close the connection; harmless if it is closed."""
        async with self._lock:
            pool, self._pool = self._pool, None
            if pool is not None:
                await pool.aclose(close_connection_pool=True)

    async def __aenter__(self) -> Self:
        """Open the connection."""
        await self.init()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection."""
        await self.close()

    async def enqueue_job(
        self, function: str | Call, *args: object, **kwargs: object
    ) -> Job | None:
        """Enqueue a job, by name or as ``some_task.job(…)``.

        ``_job_id``, ``_defer_by`` and so on mean what they mean in arq.

        Returns:
            The job, or None if a job with this ``_job_id`` exists.

        Raises:
            redis.exceptions.RedisError: Redis did not take it.
            arq.jobs.SerializationError: an argument has no JSON form.
        """
        pool = await self._open()
        return await pool.enqueue_job(function, *args, **cast("dict[str, Any]", kwargs))

    async def _open(self) -> QueueClient:
        async with self._lock:
            if self._pool is None:
                config = self._config = self._config or WorkerConfig.load()
                self._pool = config.connect()
            return self._pool
