"""Enqueues jobs from an application: Django, Flask, FastAPI, a script.

jobs = ArqAdapter()
jobs.enqueue_sync("send_email", 42)          # anywhere, also inside a running event loop
await jobs.enqueue(send_email.job(42))       # in async code; type checkers see the arguments
"""

from typing import Any

from arq.jobs import Job

from ..broker.enqueue import NewJob
from ..broker.job_handle import JobHandle
from ..types import Call
from .clients import AppClients


class ArqAdapter(AppClients):
    """Enqueues jobs, with or without an event loop.

    Raises (all methods):
        RuntimeError: both ``_defer_until`` and ``_defer_by`` are given.
        ConfigError: the environment is wrong.
        redis.exceptions.RedisError: Redis did not accept the job.
        arq.jobs.SerializationError: an argument has no JSON form.
        PayloadError: the job is larger than ``WORKER_MAX_PAYLOAD``, or an argument would be read
            differently from how it is.
    """

    async def enqueue(self, function: str | Call, *args: object, **kwargs: object) -> Job | None:
        """Enqueue a job, by name or as ``some_task.job(…)``.

        ``_job_id``, ``_defer_by`` and so on mean what they mean in arq.

        Returns:
            The job, or None if a job with this ``_job_id`` exists.
        """
        return await self.for_loop.enqueue_job(function, *args, **kwargs)

    def job(self, job_id: str) -> Job:
        """Return a handle to a job of the queue: its status, its result, and `Job.abort`.

        The job need not exist; the methods of the handle say so. Use it in async code.
        """
        client = self.for_loop
        return JobHandle(job_id, client, self.config.queue_name, client.job_deserializer)

    def enqueue_sync(self, function: str | Call, *args: object, **kwargs: Any) -> str | None:
        """Enqueue a job without an event loop; the options are those of `enqueue`.

        Returns:
            The id of the job, or None if a job with this ``_job_id`` exists.
        """
        kwargs.setdefault("_queue_name", self.config.queue_name)
        limit = self.config.max_payload
        job = NewJob.create(function, *args, _max_payload_bytes=limit, **kwargs)
        return job.job_id if job.enqueue_sync(self.for_threads) else None
