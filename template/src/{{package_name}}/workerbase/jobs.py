# Owned by arq-worker-template: `copier update` overwrites edits; configure BaseArqWorkerSettings.
"""arq's worker, kept alive: it outlives Redis outages and stops when it is told to.

arq 0.28 ends the process when one poll fails, and cancels running jobs on SIGTERM unless told
otherwise. Polling, claiming and running jobs stay arq's own.
"""

import asyncio
import contextlib
import logging
from typing import Any, cast

from arq.connections import ArqRedis
from arq.worker import Worker, get_kwargs

from .base import BaseArqWorkerSettings
from .connect import OUTAGE_ERRORS
from .link import RedisLink
from .types import Ctx, Hook

logger = logging.getLogger(__name__)


class JobWorker(Worker):
    """An arq worker that runs as one service of a process."""

    def __init__(
        self, settings: type[BaseArqWorkerSettings], redis: ArqRedis, ctx: Ctx, link: RedisLink
    ) -> None:
        arguments: dict[str, Any] = get_kwargs(cast("Any", settings))
        arguments |= {
            "redis_pool": redis,
            "redis_settings": None,
            "ctx": ctx,
            "handle_signals": False,
        }
        super().__init__(**arguments)
        self._link = link

    async def serve(self, stop: asyncio.Event, drain_seconds: float) -> None:
        """Run jobs until ``stop`` is set, then give them ``drain_seconds`` to finish.

        Jobs that do not finish are cancelled, and arq runs them again elsewhere.
        """
        logger.info("running jobs of %s: %s", self.queue_name, ", ".join(self.functions))
        while not stop.is_set():
            try:
                await self._poll_iteration()
            except OUTAGE_ERRORS as exc:
                await self._link.wait_after(exc, "polling the queue")
                continue
            except Exception:
                # arq re-raises here what went wrong around a job (a hook, a result that cannot
                # be written); the job is run again, the others must not pay for it.
                logger.exception("a job could not be run to its end; it will be run again")
                continue
            self._link.ok()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self.poll_delay_s)
        await self._drain(drain_seconds)

    async def run_due(self) -> None:
        """Run the jobs that are due now and wait for them."""
        self.ctx["redis"] = self.pool
        await self._poll_iteration()
        while self.tasks:
            await asyncio.wait(self.tasks.values())
            await self._poll_iteration()

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        """Start the jobs; a failing Redis must not cost a slot for ever, as it does in arq."""
        try:
            await super().start_jobs(job_ids)
        except OUTAGE_ERRORS:
            self.job_counter -= 1
            self.sem.release()
            raise

    async def _drain(self, seconds: float) -> None:
        self.allow_pick_jobs = False
        tasks = {task for task in self.tasks.values() if not task.done()}
        if not tasks:
            return
        logger.info("draining: %d jobs still run", len(tasks))
        _, late = await asyncio.wait(tasks, timeout=seconds)
        if late:
            logger.warning(
                "drain took longer than %g s; %d jobs are cancelled and run again elsewhere",
                seconds,
                len(late),
            )
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def startup(self) -> None:
        """Run the startup hook."""
        self.ctx["redis"] = self.pool
        if self.on_startup is not None:
            await cast("Hook", self.on_startup)(cast("Ctx", self.ctx))

    async def shutdown(self) -> None:
        """Run the shutdown hook."""
        if self.on_shutdown is not None:
            await cast("Hook", self.on_shutdown)(cast("Ctx", self.ctx))
