# Owned by arq-worker-template: `copier update` overwrites edits; subclass ArqAdapter instead.
"""Enqueue jobs from an application: Django, Flask, FastAPI, a script.

jobs = ArqAdapter()
jobs.enqueue_sync("send_email", 42)          # anywhere, also inside a running event loop
await jobs.enqueue(send_email.job(42))       # in async code; type checkers see the arguments
"""

from typing import Any

from arq.jobs import Job

from .. import scripts
from ..jobqueue import NewJob
from ..types import Call
from .clients import AppClients


class ArqAdapter(AppClients):
    """Enqueues jobs, with or without an event loop.

    Raises (all methods):
        RuntimeError: both ``_defer_until`` and ``_defer_by`` are given.
        ConfigError: the environment is wrong.
        redis.exceptions.RedisError: Redis did not take the job.
        arq.jobs.SerializationError: an argument has no JSON form.
        PayloadError: the job has more than ``WORKER_MAX_PAYLOAD`` bytes.
    """

    async def enqueue(self, function: str | Call, *args: object, **kwargs: object) -> Job | None:
        """Enqueue a job, by name or as ``some_task.job(…)``.

        ``_job_id``, ``_defer_by`` and so on mean what they mean in arq.

        Returns:
            The job, or None if a job with this ``_job_id`` exists.
        """
        return await self.for_loop.enqueue_job(function, *args, **kwargs)

    def enqueue_sync(self, function: str | Call, *args: object, **kwargs: Any) -> str | None:
        """Enqueue a job without an event loop; the options are those of `enqueue`.

        Returns:
            The id of the job, or None if a job with this ``_job_id`` exists.
        """
        kwargs.setdefault("_queue_name", self.config.queue_name)
        job = NewJob.of(function, *args, _max_payload=self.config.max_payload, **kwargs)
        added = scripts.enqueue.run_sync(self.for_threads, job.keys, job.args)
        return None if job.refused(added) else job.job_id
