"""Runs handlers in a fixed number of slots, and settles their outcomes."""

import asyncio
import logging
import time
from dataclasses import dataclass

from ..broker.redis_errors import OUTAGE_ERRORS
from ..engine.failure_record import text_of
from ..engine.retry_policy import DeadLetter, unwrap
from ..errors import InvalidEventError
from ..leasing.held_leases import HeldLeases
from ..leasing.prefetch_queue import PrefetchQueue
from ..process.service import WorkerContext
from . import own_context
from .breaker import Breakers, EventKey
from .config import StreamsConfig
from .context import EventContext
from .entry import Delivery, EntryHeader, key_of, work_of
from .router import EventRouter
from .settlement import StreamSettlement

logger = logging.getLogger(__name__)

YIELD_EVERY = 32
"""Number of handlers that never waited after which a slot lets other coroutines run."""


class Slot:
    """One of the coroutines that run handlers, and what it runs."""

    __slots__ = ("delivery", "started", "task", "timed_out")

    def __init__(self) -> None:
        self.delivery: Delivery | None = None
        self.started = 0.0
        self.timed_out = False
        self.task: asyncio.Task[None] | None = None

    def cancel_late(self, now: float, timeout: float) -> None:
        """Cancel the handler if it runs for longer than ``timeout``."""
        late = self.delivery is not None and now - self.started > timeout
        if late and not self.timed_out and self.task is not None:
            self.timed_out = True
            self.task.cancel()

    @property
    def only_late(self) -> bool:
        """Whether nothing but `cancel_late` cancelled the handler."""
        return self.timed_out and self.task is not None and self.task.cancelling() == 1

    @property
    def is_cancelled(self) -> bool:
        """Whether anybody cancelled the handler or the slot."""
        return self.task is not None and self.task.cancelling() > 0

    def uncancel(self) -> None:
        """Take back all cancellations."""
        self.timed_out = False
        while self.is_cancelled and self.task is not None:
            self.task.uncancel()


@dataclass(kw_only=True, eq=False)
class HandlerPool:
    """The slots of one consumer."""

    worker: WorkerContext
    router: EventRouter
    config: StreamsConfig
    queue: PrefetchQueue[Delivery]
    held: HeldLeases[Delivery]
    settlement: StreamSettlement

    def __post_init__(self) -> None:
        self._redis = self.worker.commands
        self._group = self.config.consumer_group.encode()
        self._ignored = self.router.ignored
        self._is_monitored = bool(self.worker.monitors)
        self.breakers = Breakers(self.config.breaker_threshold, self.config.concurrency)
        self._last_error = ""
        self.serving: asyncio.Task[object] | None = None
        """The task of the consumer: its cancellation is that of the event loop."""
        self.closing = False
        """Cancellations come from the consumer."""
        self.slots = [Slot() for _ in range(self.config.concurrency)]

    def oldest(self) -> Slot | None:
        """Return the slot whose handler has run longest, if any runs."""
        running = (slot for slot in self.slots if slot.delivery is not None)
        return min(running, key=lambda slot: slot.started, default=None)

    @property
    def note(self) -> str:
        """Report an open breaker, without the text of the error, which only the log shows."""
        names = ", ".join(f"{kind.decode()} on {stream}" for stream, kind in self.breakers.open)
        note = (
            f"the breaker is open: all messages of {names} fail, the last with {self._last_error}"
        )
        return note if names else ""

    @property
    def _ending(self) -> bool:
        """Whether a cancelled slot is to end; else a handler has cancelled its own task."""
        return self.closing or (self.serving is not None and self.serving.cancelling() > 0)

    async def run(self, slot: Slot) -> None:
        """Handle what the queue has until the consumer ends."""
        while True:
            try:
                await self._work(slot)
            except asyncio.CancelledError:
                if self._ending:
                    raise
                logger.warning("something that a handler left behind cancelled its task")
                slot.uncancel()

    async def _work(self, slot: Slot) -> None:
        streak = 0
        while True:
            delivery = self.queue.take()
            if delivery is None:
                await self.queue.wait()
                streak = 0
                continue
            await self._run_one(slot, delivery)
            streak += 1
            if streak >= YIELD_EVERY:
                streak = 0
                await asyncio.sleep(0)

    async def watch(self) -> None:
        """Cancel late handlers until cancelled."""
        timeout = self.config.handler_timeout
        while True:
            await asyncio.sleep(min(0.5, timeout / 4))
            now = time.monotonic()
            for slot in self.slots:
                slot.cancel_late(now, timeout)

    async def _run_one(self, slot: Slot, delivery: Delivery) -> None:
        slot.started = time.monotonic()
        header = EntryHeader.from_delivery(delivery)
        trial = False
        try:
            if (header.group or self._ignored) and self._concerns_others(delivery, header):
                self.settlement.skip(delivery)
                return
            paused = self.worker.paused
            if paused.any and paused.message(delivery.source, header.name):
                await self.settlement.defer(delivery, header, limited=False)
                return
            if self.breakers.open and not header.final:
                key = key_of(delivery, header)
                trial = self.breakers.start_trial(key)
                if not trial and key in self.breakers.open:
                    await self.settlement.defer(delivery, header)
                    return
            error = await self._attempt(slot, delivery, header)
            seconds = time.monotonic() - slot.started
            if error is None:
                self._handled(delivery, header, seconds)
            else:
                await self._failed(delivery, header, error, seconds)
        except OUTAGE_ERRORS as exc:
            logger.warning("%s is not settled (%s); it is redelivered", delivery, exc)
        except BaseException as exc:
            if isinstance(exc, asyncio.CancelledError | GeneratorExit) and self._ending:
                raise
            # It must not end this worker, and then the next one.
            logger.exception("%s cannot be settled; it is redelivered after its lease", delivery)
            self.held.forget(delivery)
            slot.uncancel()
        finally:
            if trial:
                self.breakers.end_trial()
            self.queue.done(time.monotonic() - slot.started, delivery.size)

    def _concerns_others(self, delivery: Delivery, header: EntryHeader) -> bool:
        """Whether a message is that of another consumer group, or of a type to be ignored."""
        if header.group and header.group != self._group:
            return True
        return key_of(delivery, header) in self._ignored

    async def _attempt(
        self, slot: Slot, delivery: Delivery, header: EntryHeader
    ) -> BaseException | None:
        """Run the handler; return what it raised."""
        slot.delivery = delivery
        try:
            if self._is_monitored:
                with self.worker.monitors.around(work_of(delivery, header)):
                    if (rest := self._start(delivery, header)) is not None:
                        await self._finish(slot, rest)
            elif (rest := self._start(delivery, header)) is not None:
                await self._finish(slot, rest)
        except asyncio.CancelledError as exc:
            if self._ending:
                raise  # the entry is released
            return exc  # the handler cancelled itself
        except BaseException as exc:  # a handler must not end the worker
            return unwrap(exc)
        finally:
            slot.delivery = None
            if slot.is_cancelled and not self._ending:
                slot.uncancel()
                await self._absorb_cancellation()
        return None

    async def _absorb_cancellation(self) -> None:
        """Receive a cancellation that a handler left pending, in place of the next handler."""
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            if self._ending:
                raise

    def _start(self, delivery: Delivery, header: EntryHeader) -> own_context.Rest | None:
        """Run the handler until it waits for something; return the rest, if there is one."""
        if header.problem or header.event_type is None:
            raise InvalidEventError(header.problem)
        route = self.router.route(delivery.source, header.event_type)
        if not header.data:
            raise InvalidEventError(delivery.without("data"))
        context = EventContext(
            header.message_id,
            route.model.event_type,
            delivery.source,
            delivery.entry_id,
            header.attempt,
            delivery.deliveries,
            self._redis,
            self.worker,
        )
        return own_context.start(route.run(header.data, context))

    async def _finish(self, slot: Slot, rest: own_context.Rest) -> None:
        """Run what is left of the handler.

        Raises:
            TimeoutError: it took too long.
        """
        try:
            await rest
        except asyncio.CancelledError as exc:
            if not slot.only_late:
                raise
            seconds = self.config.handler_timeout
            msg = f"handler took longer than {seconds:g} s (WORKER_HANDLER_TIMEOUT)"
            raise TimeoutError(msg) from exc

    def _handled(self, delivery: Delivery, header: EntryHeader, seconds: float) -> None:
        self.settlement.handled(delivery, header, seconds)
        if self.breakers.failing:
            self._succeeded(key_of(delivery, header))

    async def _failed(
        self, delivery: Delivery, header: EntryHeader, error: BaseException, seconds: float
    ) -> None:
        decision = self.worker.retry_policy.decide(error, header.attempt)
        # What can never succeed says nothing about the dependencies of the others.
        passing = not (isinstance(decision, DeadLetter) and decision.reason != "retries")
        if passing and self._is_held_up(delivery, header, error):
            if not header.final:
                await self.settlement.defer(delivery, header, error, seconds)
                return
            decision = DeadLetter("retries")
        await self.settlement.failed(delivery, header, error, decision, seconds)

    def _is_held_up(self, delivery: Delivery, header: EntryHeader, error: BaseException) -> bool:
        """Record a failure; whether the breaker of its type is open."""
        key = key_of(delivery, header)
        if self.breakers.failed(key, header.message_id):
            self._last_error = type(error).__name__
            logger.error(
                "%d different messages of %s on %s failed in a row, the last with %s: %s. The "
                "breaker of this type is open: a few are tried until one succeeds, the others are "
                "deferred, and no attempts are counted",
                self.config.breaker_threshold,
                header.name,
                delivery.source,
                self._last_error,
                text_of(error),
            )
            if len(self.breakers.open) == 1:
                self.worker.monitors.on_breaker(is_open=True)
        return key in self.breakers.open

    def _succeeded(self, key: EventKey) -> None:
        if self.breakers.succeeded(key):
            logger.info("%s on %s succeeded: its breaker is closed", key[1].decode(), key[0])
            if not self.breakers.open:
                self.worker.monitors.on_breaker(is_open=False)
