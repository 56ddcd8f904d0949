"""arq's worker with corrections: it loses no slot when Redis fails, and can be stopped.

arq's own keeps a slot that it took for a job which Redis then did not give, drops jobs that it
cannot run, and gives the ticks of two queues the same id.
"""

import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, cast

from arq.jobs import Deserializer, SerializationError, deserialize_job_raw
from arq.utils import to_unix_ms

from ..broker import keys
from ..broker.job_record import JobFields
from .arq_names import Worker
from .job_run import sent_trace
from .service import WorkerContext
from .settings import arq_arguments
from .task import Task


def _checked(read: Deserializer) -> Deserializer:
    """Let arq read only jobs that it can run, and keep the trace; what it cannot read it ends."""

    def load(written: bytes) -> dict[str, Any]:
        job = JobFields.read(written, read)
        sent_trace.set(job.trace)
        return {
            "f": job.function, "a": job.args, "k": job.kwargs, "t": job.attempts or None,
            "et": job.enqueue_ms,
        }  # fmt: skip

    return load


class QueueWorker(Worker):
    """Polls the queue of ``context`` and runs its jobs.

    Args:
        context: settings, client and what is paused.
        on_refused: called with the id of a job that arq ends without running it.
    """

    def __init__(
        self, context: WorkerContext, on_refused: Callable[[str], Awaitable[None]]
    ) -> None:
        arguments = arq_arguments(context.settings)
        arguments["job_deserializer"] = _checked(context.settings.job_deserializer)
        super().__init__(
            **arguments, redis_pool=context.client, ctx=context.ctx, handle_signals=False
        )
        self.ctx["redis"] = context.client
        self._paused = context.paused
        self._on_refused = on_refused
        self._names = {f.name: Task.names_of(f) for f in context.settings.functions}
        self._names |= {job.name: Task.names_of(job) for job in context.settings.cron_jobs}
        self._ticking = [job for job in self.cron_jobs if job.unique and job.job_id is None]
        self.taken = 0
        """Number of jobs that have been started and still hold their slot."""
        self.hides_more = False
        """Whether more jobs may be due behind those that were put back."""

    @property
    def started(self) -> int:
        """How many jobs have been started."""
        return self._jobs_started()

    async def poll(self) -> None:
        """Start what is due, and end what has run."""
        await self._poll_iteration()

    async def run_cron(self, n: datetime, delay: float, num_windows: int = 2) -> None:
        """Enqueue the ticks that are due, under the ids of this queue; see `keys.tick_job_id`."""
        for job in self._ticking:
            due = n if job.next_run is None and job.run_at_startup else job.next_run
            if due is not None:
                job.job_id = keys.tick_job_id(self.queue_name, job.name, to_unix_ms(due))
        await super().run_cron(n, delay, num_windows)

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        """Start jobs while there are slots."""
        for job_id in await self._startable(job_ids):
            if not self.allow_pick_jobs or self.job_counter >= self.max_jobs:
                return
            name = job_id.decode()
            before = self.tasks.get(name)
            try:
                await super().start_jobs([job_id])
            finally:
                self.taken += self.tasks.get(name) is not before
                # arq takes the slot before it asks Redis for the job.
                while self.job_counter > self.taken:
                    super()._release_sem_dec_counter_on_complete()

    def _release_sem_dec_counter_on_complete(self) -> None:
        super()._release_sem_dec_counter_on_complete()
        self.taken -= 1

    async def finish_failed_job(self, job_id: str, result_data: bytes | None) -> None:
        """End a job without running it."""
        await self._on_refused(job_id)
        await super().finish_failed_job(job_id, result_data)

    async def _startable(self, job_ids: list[bytes]) -> list[bytes]:
        """Return the jobs that are not paused.

        Those of paused tasks are put back without being started: no attempt has to be taken back,
        and no hook hears of them.
        """
        if self._paused.queue:
            return []
        if not (self._paused.any and job_ids):
            return job_ids
        queue, ids = self.queue_name, [job_id.decode() for job_id in job_ids]
        names = [keys.job(queue, i) for i in ids] + [keys.in_progress(queue, i) for i in ids]
        found = await self.pool.mget(names)
        held = {
            job_id: time.time() * 1000 + self._paused.delay() * 1000
            for job_id, job, running in zip(job_ids, found, found[len(ids) :], strict=False)
            if job and not running and self._paused.task(self._names_of(job))
        }
        if held:
            await self.pool.zadd(queue, cast("Any", held), xx=True)
            self.hides_more = len(job_ids) >= self.queue_read_limit
        return [job_id for job_id in job_ids if job_id not in held]

    def _names_of(self, job: bytes) -> set[str]:
        """Return the names of the function of a job; none if it cannot run, which arq reports."""
        try:
            name = deserialize_job_raw(job, deserializer=self.job_deserializer)[0]
        except SerializationError:
            return set()
        return self._names.get(name, set())
