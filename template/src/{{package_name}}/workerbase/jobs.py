# Owned by arq-worker-template: `copier update` overwrites edits; configure BaseArqWorkerSettings.
"""arq's worker without arq's limits: its API, keys and wire format, another engine.

Due jobs are claimed in one round trip for all free slots, a little ahead of them (see `buffer`);
a claim is a lease that is renewed while the job runs, so a dead worker's jobs run again within
one lease. An enqueue by our clients hands the job to an idle worker; others are found by polling.
What fails is retried or dead-lettered as the policy says. Redis being away only delays all of it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import Any, Self, cast

from arq.connections import ArqRedis
from arq.constants import abort_job_max_age, abort_jobs_ss
from arq.utils import timestamp_ms
from arq.worker import get_kwargs

from . import keys, lease, wire
from .attempt import Attempt
from .buffer import Buffer
from .config import WorkerConfig
from .connect import OUTAGE_ERRORS
from .cron import enqueue_due
from .health import Vitals
from .jobqueue import BATCH, Claim, QueueClient
from .jobrunner import JobRunner
from .link import RedisLink
from .monitor import Monitors
from .retry import Retry
from .services import Services
from .settings import BaseArqWorkerSettings
from .types import Ctx, Hook, RedisClient

logger = logging.getLogger(__name__)

UPKEEP_S = 0.5
"""How often cron jobs and aborted jobs are looked at."""
QUIET_S = 60.0
"""After so long without a word a listening connection speaks, or what lies between it and Redis
may forget it: jobs would be handed to nobody."""
CANCEL_S = 5
"""How long a cancelled job may take to notice."""


class JobWorker(JobRunner):
    """Claims jobs, keeps their leases and runs them.

    Args:
        prefetch: at most so many jobs wait in this process beside those that run.
    """

    def __init__(
        self, functions: Sequence[Any] = (), *, prefetch: int = 500, **arguments: Any
    ) -> None:
        super().__init__(functions, **arguments)
        self._buffer: Buffer[Claim] = Buffer(self.max_jobs, prefetch)
        self._held: dict[str, Claim] = {}
        self._wake = asyncio.Event()
        self._more = False
        self._claiming_since: float | None = None
        self._listening = False
        self._idle_until = self._idle_since = 0.0

    @classmethod
    def of(
        cls,
        settings: type[BaseArqWorkerSettings],
        redis: ArqRedis,
        ctx: Ctx,
        link: RedisLink,
        monitors: Monitors | None = None,
    ) -> Self:
        """Make the worker of ``settings`` that runs as one service of a process."""
        arguments: dict[str, Any] = get_kwargs(cast("Any", settings))
        arguments |= {"redis_pool": redis, "redis_settings": None, "ctx": ctx}
        config = settings.config or WorkerConfig.load()
        return cls(
            policy=config.retry_policy(settings.permanent_errors, settings.transient_errors),
            lease_timeout=config.lease_timeout,
            prefetch=config.prefetch,
            dlq_max_entries=config.dlq_max_entries,
            link=link,
            monitors=monitors,
            handle_signals=False,
            **arguments,
        )

    def vitals(self) -> Vitals:
        """Say how the worker is, for the heartbeat."""
        # Waiting for a free slot is no standstill; a claim that never returns is.
        since = self._claiming_since
        return Vitals("job queue", time.monotonic() if since is None else since)

    # --- life cycle

    async def serve(self, stop: asyncio.Event, drain_seconds: float) -> None:
        """Run jobs until ``stop`` is set, then give them ``drain_seconds`` to finish.

        Jobs that do not finish are cancelled and handed back.

        Raises:
            WorkerError: a loop ended that must not; what runs was drained all the same.
        """
        logger.info("running jobs of %s: %s", self.queue_name, ", ".join(self.functions))
        async with self._core() as core:
            intake = Services()
            intake.start("jobs: claim", self._claim_loop())
            intake.start("jobs: wake", self._wake_loop())
            intake.start("jobs: upkeep", self._upkeep_loop())
            try:
                await Services.wait(stop, intake, core)
            finally:
                await intake.cancel()
                await self._drain(drain_seconds)

    async def main(self) -> None:
        """Run as arq's worker does, polling; `serve` does it better."""
        async with self._core():
            await super().main()

    @contextlib.asynccontextmanager
    async def _core(self) -> AsyncGenerator[Services]:
        """Run the loops that running jobs need until the last of them has ended."""
        core = Services()
        core.start("jobs: leases", self._renew_loop())
        core.start("jobs: ends", self._finisher.run())
        try:
            yield core
        finally:
            await core.cancel()

    async def run_due(self) -> None:
        """Run the jobs that are due now and wait for them."""
        self.ctx["redis"] = self.pool
        async with self._core():
            while True:
                await self._claim(self.max_jobs)
                if not self.tasks:
                    return
                await asyncio.wait(self.tasks.values())

    async def startup(self) -> None:
        """Run the startup hook."""
        self.ctx["redis"] = self.pool
        if self.on_startup is not None:
            await cast("Hook", self.on_startup)(cast("Ctx", self.ctx))

    async def shutdown(self) -> None:
        """Run the shutdown hook."""
        if self.on_shutdown is not None:
            await cast("Hook", self.on_shutdown)(cast("Ctx", self.ctx))

    async def _drain(self, seconds: float) -> None:
        self._buffer.close()
        await self._hand_back()
        if self.tasks:
            logger.info("draining: %d jobs still run", len(self.tasks))
            _, late = await asyncio.wait(self.tasks.values(), timeout=seconds)
            if late:
                logger.warning(
                    "drain took longer than %g s; %d jobs are cancelled and handed back",
                    seconds,
                    len(late),
                )
                self._draining = True
                for task in list(self.job_tasks.values()):  # others end: they are being settled
                    task.cancel()
                await asyncio.wait(late, timeout=CANCEL_S)
        with contextlib.suppress(*OUTAGE_ERRORS):  # it expires by itself
            await self.pool.delete(self.health_check_key)

    async def _hand_back(self) -> None:
        waiting = [claim for claim in self._held.values() if not claim.started]
        for claim in waiting:
            self._forget(claim)
        try:
            count = await self._queue.hand_back(self._held)
        except OUTAGE_ERRORS as exc:
            if waiting:
                logger.warning("could not hand jobs back (%s); they wait a lease", exc)
        else:
            if count:
                logger.info("handed %d jobs back", count)

    # --- claiming

    async def _claim_loop(self) -> None:
        while True:
            most = await self._buffer.room()
            self._wake.clear()
            self._claiming_since = time.monotonic()
            try:
                wait = await self._claim(most)
            except OUTAGE_ERRORS as exc:
                await self._link.wait_after(exc, "claiming jobs")
                continue
            finally:
                self._claiming_since = None
            self._link.ok()
            if wait is None:
                continue
            # Not wait_for: Python 3.11's forgets a cancellation that comes with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()

    async def _claim(self, most: int) -> float | None:
        """Claim and start jobs; return how long to wait before the next claim, if at all."""
        free, most = max(0, self._free()), min(most, BATCH)
        suspects = not any(claim.suspect for claim in self._held.values())
        asked = time.monotonic()
        idle = self._listening and asked > self._idle_until
        claims, next_due = await self._queue.claim(
            free, most, aborts=self.allow_abort_jobs, suspects=suspects, idle=idle
        )
        if len(claims) >= free:
            self._idle_until = 0.0
        elif idle:
            self._idle_since = asked
            self._idle_until = asked + self._queue.lease_seconds / 4
        self._take(claims)
        # Due and left: it was tried before and waits for a slot, which says so when it is free.
        self._more = next_due is not None and next_due <= 0
        if len(claims) == most or (self._more and self._free() > max(0, free - len(claims))):
            return None
        # Leases that begin after this look end after the next; who is idle says so again in time.
        wait = min(self.poll_delay_s, self._queue.lease_seconds / 2)
        return wait if next_due is None or self._more else min(next_due, wait)

    def _free(self) -> int:
        return self.max_jobs - self._buffer.running - len(self._buffer)

    def _take(self, claims: list[Claim]) -> None:
        self._monitors.leases("job", "taken_over", sum(claim.crashed for claim in claims))
        for claim in claims:
            former, self._held[claim.job_id] = self._held.get(claim.job_id), claim
            if claim.job_id in self.job_tasks:
                continue  # it runs here: its lease had run out, and is ours again
            if former is not None:
                self._buffer.drop({former})
            self._buffer.add([claim])
        self._start_ready()

    def _forget(self, claim: Claim) -> None:
        # A job that was released may have been claimed again before we come here.
        if self._held.get(claim.job_id) is claim:
            del self._held[claim.job_id]

    def _start_ready(self) -> None:
        while self._buffer.running < self.max_jobs and (claim := self._buffer.take()) is not None:
            task = asyncio.create_task(self._run(claim))
            self.tasks[claim.job_id] = task
            task.add_done_callback(partial(self._ran, claim.job_id))

    def _ran(self, job_id: str, task: "asyncio.Task[None]") -> None:
        if self.tasks.get(job_id) is task:
            del self.tasks[job_id]

    async def _poll_iteration(self) -> None:
        """Do one pass for `main`, which arq wrote."""
        most = self.queue_read_limit
        if self.burst and self.max_burst_jobs >= 0:
            most = self.max_burst_jobs - self._jobs_started() - len(self._buffer)
        most = min(most, self._free())
        if self.allow_pick_jobs and most > 0:
            await self._claim(most)
        if self.allow_abort_jobs:
            await self._cancel_aborted_jobs()
        await self.heart_beat()

    async def _wake_loop(self) -> None:
        while True:
            # The client subscribes again by itself, and says so in a message: that, too, is a
            # reason to look, for what was enqueued while nobody listened.
            pubsub = cast("Any", self.pool).pubsub()
            own = keys.hand_over(self.queue_name, self.name)
            try:
                await pubsub.subscribe(keys.wake(self.queue_name), own)
                self._listening = True
                while True:
                    message = await pubsub.get_message(timeout=QUIET_S)
                    if message is None:
                        await pubsub.ping()
                        continue
                    if message["type"] == "message" and message["channel"] == own.encode():
                        self._idle_until = 0.0
                        # A process that was frozen may come to it when others have run it.
                        if time.monotonic() - self._idle_since < self._queue.lease_seconds:
                            self._take([Claim.handed_over(message["data"])])
                    self._wake.set()
            except OUTAGE_ERRORS as exc:
                await self._link.wait_after(exc, "listening for new jobs")
            finally:
                self._listening = False
                with contextlib.suppress(*OUTAGE_ERRORS):
                    await pubsub.aclose()

    async def _renew_loop(self) -> None:
        while True:
            await asyncio.sleep(self._lease_timeout * lease.RENEW_SHARE)
            held = dict(self._held)
            try:
                lost = await self._queue.renew(held)
            except OUTAGE_ERRORS as exc:
                self._link.failed(exc, "renewing leases of jobs")
                continue
            self._lose({held[job_id] for job_id in lost})
            self._monitors.leases("job", "renewed", len(held) - len(lost))

    def _lose(self, gone: set[Claim]) -> None:
        for claim in gone:
            self._forget(claim)
        # What has ended may be gone from Redis before we hear of it: that is no loss.
        running = [claim for claim in gone if claim.job_id in self.job_tasks]
        for claim in running:
            logger.warning(
                "the lease of job %s ran out while it ran; it may run twice", claim.job_id
            )
        waiting = sum(not claim.started for claim in gone)
        self._monitors.leases("job", "lost", len(running) + waiting)
        self._buffer.drop(gone)

    # --- upkeep

    async def _upkeep_loop(self) -> None:
        while True:
            try:
                if self.allow_abort_jobs:
                    await self._cancel_aborted_jobs()
                await self.heart_beat()
            except OUTAGE_ERRORS as exc:
                await self._link.wait_after(exc, "looking after cron jobs")
            await asyncio.sleep(UPKEEP_S)

    async def _cancel_aborted_jobs(self) -> None:
        """Cancel the running jobs that somebody asked to abort."""
        now = timestamp_ms()
        client = cast("RedisClient", self.pool)
        wanted: list[bytes] = await client.execute_command("ZRANGE", abort_jobs_ss, 0, -1)
        for job_id in map(wire.text, wanted):
            if job_id in self.job_tasks:
                self.aborting_tasks.add(job_id)
                self.job_tasks[job_id].cancel()
                await self.pool.zrem(abort_jobs_ss, job_id)
        if wanted:  # as arq does; requests for jobs that were done already remain
            await self.pool.zremrangebyscore(abort_jobs_ss, "-inf", now - abort_job_max_age * 1000)

    async def run_cron(self, n: datetime, delay: float, num_windows: int = 2) -> None:
        """Enqueue the cron jobs whose time has come."""
        ahead = timedelta(seconds=delay * num_windows)
        if self.cron_jobs:
            await enqueue_due(self._client, self.queue_name, self.cron_jobs, n, ahead)

    @cached_property
    def _client(self) -> QueueClient:
        if isinstance(self.pool, QueueClient):
            return self.pool
        return QueueClient(
            cast("Any", self.pool).connection_pool,
            job_serializer=self.job_serializer,
            default_queue_name=self.queue_name,
            expires_extra_ms=self.expires_extra_ms,
        )

    async def _run(self, claim: Claim) -> None:
        """Run a claimed job and say what came of it."""
        started = time.monotonic()
        attempt = Attempt(claim, self._codec, claim.job_try)
        try:
            try:
                await self._attempt(attempt)
            finally:
                self.job_tasks.pop(claim.job_id, None)
                self._buffer.done(time.monotonic() - started)
                self._start_ready()
                if self._more:
                    self._wake.set()
            await asyncio.shield(self._settle(attempt))
            if isinstance(attempt.decision, Retry):
                self._wake.set()  # it may be due
            if attempt.ctx:
                await self._hook("after_job_end", attempt)
        except Exception:
            logger.exception("job %s could not be run to its end; it is run again", claim.job_id)
        finally:
            self._forget(claim)
            self.aborting_tasks.discard(claim.job_id)  # it may have ended all the same
            if claim.suspect:
                self._wake.set()  # the next one may be claimed
