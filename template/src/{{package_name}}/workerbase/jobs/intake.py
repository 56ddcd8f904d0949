"""Claims due jobs for free slots, a little ahead of them, and starts them.

A claim takes one round trip for all free slots. An enqueue by our clients hands its job to an idle
worker, or wakes idle ones; jobs of plain arq clients are found by polling.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial

from ..broker import keys
from ..broker.redis_errors import OUTAGE_ERRORS
from ..broker.wakeup import WakeupListener
from ..leasing.held_leases import HeldLeases
from ..leasing.prefetch_queue import MAX_FETCHED, PrefetchQueue
from ..process.service import WorkerContext
from .queue import Claim, JobQueue

logger = logging.getLogger(__name__)

PAUSED_S = 1.0
"""Maximum interval at which a worker looks whether the queue is still paused."""


@dataclass(kw_only=True, eq=False)
class JobIntake:
    """Claims jobs and starts them in slots."""

    worker: WorkerContext
    name: str
    """Unique name of the worker."""
    queue: JobQueue
    prefetched: PrefetchQueue[Claim]
    """Jobs that are claimed and not started."""
    held: HeldLeases[Claim]
    run: Callable[[Claim], Coroutine[object, object, None]]
    """Runs a claimed job to its settlement."""
    renew_overdue: Callable[[], Awaitable[None]]
    """Renews the leases of this process if that is overdue, before it claims its own jobs."""
    release_all: Callable[[Collection[str]], Awaitable[int]]
    """Releases all jobs of this process but some, and has it handed no more."""
    lease_seconds: float

    def __post_init__(self) -> None:
        self.tasks: dict[str, asyncio.Task[None]] = {}
        """The task of each job that was started and is not settled."""
        self._started: dict[str, Claim] = {}
        self.claiming_since: float | None = None
        """When the claim began that Redis has not answered yet."""
        self._max_jobs = self.worker.config.max_jobs
        self._context = copy_context()
        self._wake = asyncio.Event()
        self._more = False
        self._idle_until = self._idle_since = 0.0
        own = keys.hand_over(self.queue.name, self.name)
        self._own_channel = own.encode()
        self.listener = WakeupListener(
            self.worker.client,
            [keys.wake(self.queue.name), own],
            self._on_message,
            self.worker.availability,
        )

    def wake(self) -> None:
        """Claim now: a job may be due, or a slot free."""
        self._wake.set()

    async def claim_loop(self) -> None:
        """Claim until cancelled."""
        while True:
            limit = await self.prefetched.room()
            self._wake.clear()
            self.claiming_since = time.monotonic()
            try:
                wait = await self.claim(limit)
            except OUTAGE_ERRORS as exc:
                await self.worker.availability.back_off(exc, "claiming jobs")
                continue
            finally:
                self.claiming_since = None
            self.worker.availability.record_success()
            if wait is None:
                continue
            # Python 3.11's wait_for loses a cancellation that arrives with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()

    async def claim(self, limit: int) -> float | None:
        """Claim and start jobs once; return how long to wait before the next claim, if at all."""
        if self.worker.paused.queue:
            await self.release_waiting()
            return min(self.worker.config.poll_delay, PAUSED_S)
        await self.renew_overdue()
        free, limit = max(0, self.free()), min(limit, MAX_FETCHED)
        suspects = not any(claim.suspect for claim in self.held)
        asked = time.monotonic()
        idle = self.listener.listening and asked > self._idle_until
        claims, next_due = await self.queue.claim(
            free, limit, aborts=self.worker.settings.allow_abort_jobs, suspects=suspects, idle=idle
        )
        if len(claims) >= free:
            self._idle_until = 0.0
        elif idle:
            self._idle_since = asked
            self._idle_until = asked + self.lease_seconds / 4
        self._take(claims)
        # A job that is due and was left has been attempted before and waits for a free slot.
        self._more = next_due is not None and next_due <= 0
        if len(claims) == limit or (self._more and self.free() > max(0, free - len(claims))):
            return None
        # Leases that begin after this claim end after the next one, and an idle worker is listed
        # again in time.
        wait = min(self.worker.config.poll_delay, self.lease_seconds / 2)
        return wait if next_due is None or self._more else min(next_due, wait)

    async def release_waiting(self) -> None:
        """Release what was claimed and has not started, and be handed no more."""
        self._forget_waiting()
        self._idle_since, self._idle_until = float("-inf"), 0.0
        await self.release_all(self.held.ids(self.queue.name))

    def _forget_waiting(self) -> None:
        self.prefetched.drop(set(self.held.forget_waiting()))

    def free(self) -> int:
        """Return the number of free slots for which no job waits here."""
        return self._max_jobs - self.prefetched.running - len(self.prefetched)

    def finished(self, claim: Claim, seconds: float) -> None:
        """Record that the function of a job ran for ``seconds`` and its slot is free."""
        self.prefetched.done(seconds, claim.size)
        self._start_ready()
        if self._more:
            self._wake.set()

    def _take(self, claims: list[Claim]) -> None:
        self.worker.monitors.on_leases("job", "reclaimed", sum(claim.crashed for claim in claims))
        held = self.held.by_source[self.queue.name]
        for claim in claims:
            running = self._started.get(claim.job_id)
            if running is not None and claim.crashed:
                # Its lease had ended while it ran or was being settled, and is ours again.
                running.owner = claim.owner
                held[claim.job_id] = running
                continue
            former, held[claim.job_id] = held.get(claim.job_id), claim
            if former is not None:
                self.prefetched.drop({former})
            self.prefetched.add([claim])
        self._start_ready()

    def _start_ready(self) -> None:
        queue = self.prefetched
        if self.worker.paused.queue:
            self._forget_waiting()  # the next pass of the claim loop releases them
        while queue.running < self._max_jobs and (claim := queue.take()) is not None:
            # From the context of the engine: what a job sets in its own must not reach the next.
            task = asyncio.create_task(self.run(claim), context=self._context.copy())
            self.tasks[claim.job_id], self._started[claim.job_id] = task, claim
            task.add_done_callback(partial(self._ended, claim.job_id))

    def _ended(self, job_id: str, task: "asyncio.Task[None]") -> None:
        if self.tasks.get(job_id) is task:
            del self.tasks[job_id], self._started[job_id]

    def _on_message(self, channel: bytes, data: bytes) -> None:
        if channel == self._own_channel:
            self._idle_until = 0.0
            # A process that was frozen may read it when other workers have run the job.
            if time.monotonic() - self._idle_since < self.lease_seconds:
                try:
                    claim = Claim.from_hand_over(self.queue.name, self.name, data)
                except ValueError as exc:
                    # Whoever may enqueue may publish here, too; a job that was handed over for
                    # real is run by another worker when its lease ends.
                    logger.warning("ignoring a malformed message on %s: %s", channel, exc)
                else:
                    self._take([claim])
        self._wake.set()
