# Owned by arq-worker-template: `copier update` overwrites edits; subclass BaseArqService instead.
"""Enqueue jobs from inside a worker."""

from typing import Self, cast

from arq.jobs import Job

from .config import WorkerConfig
from .delivery.arq import ArqAdapter
from .types import Call, RedisClient


class BaseArqService:
    """Enqueues jobs from inside a worker; subclass it to name your jobs.

    The connection opens on first use, and again after `close`.
    """

    def __init__(self, config: WorkerConfig | None = None) -> None:
        self._adapter = ArqAdapter(config)

    async def init(self) -> None:
        """Open the connection and check it.

        Raises:
            redis.exceptions.RedisError: Redis does not answer.
        """
        await cast("RedisClient", self._adapter.for_loop).execute_command("PING")

    async def close(self) -> None:
        """Close the connection; harmless if it is closed."""
        await self._adapter.aclose()

    async def __aenter__(self) -> Self:
        """Open the connection."""
        await self.init()
        return self

    async def __aexit__(self, *_: object) -> None:
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
        return await self._adapter.enqueue(function, *args, **kwargs)
