# Owned by arq-worker-template: `copier update` overwrites edits; subclass ArqAdapter instead.
"""Enqueue jobs from an application: Django, Flask, FastAPI, a script.

jobs = ArqAdapter()
jobs.enqueue_sync("send_email", 42)          # anywhere, also inside a running event loop
await jobs.enqueue("send_email", 42)         # in async code
"""

from datetime import datetime, timedelta
from typing import Any, cast
from uuid import uuid4

from arq.constants import expires_extra_ms, job_key_prefix, result_key_prefix
from arq.jobs import Job, serialize_job
from arq.utils import timestamp_ms, to_ms, to_unix_ms

from .. import scripts, wire
from ..types import SyncRedisClient
from .clients import AppClients


class ArqAdapter(AppClients):
    """Enqueues jobs, with or without an event loop.

    Raises (all methods):
        ConfigError: the environment is wrong.
        redis.exceptions.RedisError: Redis did not take the job.
        arq.jobs.SerializationError: an argument has no JSON form.
    """

    async def enqueue(self, function: str, *args: object, **kwargs: object) -> Job | None:
        """Enqueue a job; ``_job_id``, ``_defer_by`` and so on mean what they mean in arq.

        Returns:
            The job, or None if a job with this ``_job_id`` exists.
        """
        return await self.for_loop.enqueue_job(function, *args, **cast("dict[str, Any]", kwargs))

    def enqueue_sync(
        self,
        function: str,
        *args: object,
        _job_id: str | None = None,
        _queue_name: str | None = None,
        _defer_until: datetime | None = None,
        _defer_by: float | timedelta | None = None,
        _expires: float | timedelta | None = None,
        **kwargs: object,
    ) -> str | None:
        """Enqueue a job without an event loop; the options are those of arq.

        Returns:
            The id of the job, or None if a job with this ``_job_id`` exists.

        Raises:
            ValueError: both ``_defer_until`` and ``_defer_by`` are given.
        """
        if _defer_until is not None and _defer_by is not None:
            msg = "give _defer_until or _defer_by, not both"
            raise ValueError(msg)
        now_ms = timestamp_ms()
        due_ms = to_unix_ms(_defer_until) if _defer_until else now_ms + (to_ms(_defer_by) or 0)
        expires_ms = to_ms(_expires) or max(due_ms - now_ms, 0) + expires_extra_ms
        job_id = _job_id or uuid4().hex
        job = serialize_job(function, args, kwargs, None, now_ms, serializer=wire.dumps)
        added = scripts.enqueue.run_sync(
            cast("SyncRedisClient", self.for_threads),
            [
                job_key_prefix + job_id,
                result_key_prefix + job_id,
                _queue_name or self.config.queue_name,
            ],
            [job_id, job, expires_ms, due_ms],
        )
        return job_id if added else None
