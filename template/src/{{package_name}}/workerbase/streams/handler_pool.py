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
from .breaker import Breaker
from .config import StreamsConfig
from .context import EventContext
from .entry import Delivery, EntryHeader, work_of
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

    def uncancel(self) -> bool:
        """Take back what `cancel_late` did; true if the slot itself was cancelled, too."""
        timed_out, self.timed_out = self.timed_out, False
        if self.task is None:
            return False
        return bool(self.task.uncancel() if timed_out else self.task.cancelling())


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
        self._breaker = Breaker(self.config.breaker_threshold)
        self._last_error = ""
        self.slots = [Slot() for _ in range(self.config.concurrency)]

    def oldest(self) -> Slot | None:
        """Return the slot whose handler has run longest, if any runs."""
        running = (slot for slot in self.slots if slot.delivery is not None)
        return min(running, key=lambda slot: slot.started, default=None)

    @property
    def note(self) -> str:
        """Report an open breaker, without the text of the error, which only the log shows."""
        note = f"the breaker is open: all messages fail, the last with {self._last_error}"
        return note if self._breaker.is_open else ""

    async def run(self, slot: Slot) -> None:
        """Handle what the queue has until cancelled."""
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
        """Cancel late handlers and allow trials of an open breaker, until cancelled."""
        timeout = self.config.handler_timeout
        while True:
            await asyncio.sleep(min(0.5, timeout / 4))
            now = time.monotonic()
            for slot in self.slots:
                slot.cancel_late(now, timeout)
            if self._breaker.may_try():
                self.queue.allow_trial()

    async def _run_one(self, slot: Slot, delivery: Delivery) -> None:
        slot.started = time.monotonic()
        slot.delivery = delivery
        header = EntryHeader.from_delivery(delivery)
        try:
            error = await self._attempt(slot, delivery, header)
            seconds = time.monotonic() - slot.started
            if error is None:
                self.settlement.handled(delivery, header, seconds)
                if self._breaker.succeeded():
                    logger.info("a message succeeded: the breaker is closed")
                    self.queue.resume()
                    self.worker.monitors.on_breaker(is_open=False)
            else:
                await self._failed(delivery, header, error, seconds)
        except OUTAGE_ERRORS as exc:
            logger.warning("%s is not settled (%s); it is redelivered", delivery, exc)
        except Exception:  # it must not end this worker, and then the next one
            logger.exception("%s cannot be settled; it is redelivered after its lease", delivery)
            self.held.forget(delivery)
        finally:
            self.queue.done(time.monotonic() - slot.started)

    async def _attempt(
        self, slot: Slot, delivery: Delivery, header: EntryHeader
    ) -> BaseException | None:
        """Run the handler; return what it raised."""
        try:
            if self.worker.monitors:
                with self.worker.monitors.around(work_of(delivery, header)):
                    await self._handle(slot, delivery, header)
            else:
                await self._handle(slot, delivery, header)
        except asyncio.CancelledError as exc:
            if slot.uncancel():
                raise  # the drain is over; the entry is released
            return exc  # the handler cancelled itself
        except KeyboardInterrupt:  # Ctrl-C where no signal handler can be set
            raise
        except BaseException as exc:  # a handler must not end the worker
            return unwrap(exc)
        finally:
            slot.delivery = None
            slot.uncancel()
        return None

    async def _handle(self, slot: Slot, delivery: Delivery, header: EntryHeader) -> None:
        if header.problem or header.event_type is None:
            raise InvalidEventError(header.problem)
        route = self.router.route(delivery.source, header.event_type)
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
        try:
            rest = own_context.start(route.run(header.data, context))
            if rest is not None:
                await rest
        except asyncio.CancelledError as exc:
            if not slot.only_late:
                raise
            seconds = self.config.handler_timeout
            msg = f"handler took longer than {seconds:g} s (WORKER_HANDLER_TIMEOUT)"
            raise TimeoutError(msg) from exc

    async def _failed(
        self, delivery: Delivery, header: EntryHeader, error: BaseException, seconds: float
    ) -> None:
        decision = self.worker.retry_policy.decide(error, header.attempt)
        # What can never succeed says nothing about the dependencies of the others.
        passing = not (isinstance(decision, DeadLetter) and decision.reason != "retries")
        if passing and self._suspend(header, error):
            self.queue.put_back(delivery)
            self.settlement.report("held", delivery, header, error, seconds)
        else:
            await self.settlement.failed(delivery, header, error, decision, seconds)

    def _suspend(self, header: EntryHeader, error: BaseException) -> bool:
        if self._breaker.failed(header.message_id):
            self._last_error = type(error).__name__
            logger.error(
                "%d different messages failed in a row, the last with %s: %s. The breaker is open: "
                "one message at a time is tried until one succeeds, and no attempts are counted",
                self.config.breaker_threshold,
                self._last_error,
                text_of(error),
            )
            self.queue.suspend()
            self.worker.monitors.on_breaker(is_open=True)
        return self._breaker.is_open
