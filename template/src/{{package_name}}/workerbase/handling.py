# Owned by arq-worker-template: `copier update` overwrites edits; write handlers (see `events`).
"""Runs handlers in a fixed number of slots and settles what comes of them."""

import asyncio
import logging
import time
from dataclasses import dataclass

from .breaker import Breaker
from .buffer import Buffer
from .config import WorkerConfig
from .connect import OUTAGE_ERRORS
from .deadletter import text_of
from .errors import InvalidEventError
from .events import EventContext, EventRouter, Head
from .lease import Delivery
from .retry import DeadLetter, RetryPolicy
from .settle import Settler, work_of
from .types import Ctx, RedisClient

logger = logging.getLogger(__name__)

YIELD_EVERY = 32
"""A slot lets the other coroutines run after so many handlers that never waited."""


class Slot:
    """One of the coroutines that run handlers, and what it is doing."""

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
class Handling:
    """The slots of one consumer."""

    redis: RedisClient
    router: EventRouter
    config: WorkerConfig
    policy: RetryPolicy
    ctx: Ctx
    buffer: Buffer[Delivery]
    settler: Settler

    def __post_init__(self) -> None:
        self._breaker = Breaker(self.config.breaker_threshold)
        self._held_for = ""
        self.slots = [Slot() for _ in range(self.config.concurrency)]

    def oldest(self) -> Slot | None:
        """Return the slot whose handler has run longest, if any runs."""
        running = (slot for slot in self.slots if slot.delivery is not None)
        return min(running, key=lambda slot: slot.started, default=None)

    @property
    def note(self) -> str:
        """Say that the breaker is open, without the error's text, which is for the log alone."""
        held = f"the breaker is open: all messages fail, the last with {self._held_for}"
        return held if self._breaker.is_open else ""

    async def run(self, slot: Slot) -> None:
        """Handle what the buffer gives until cancelled."""
        streak = 0
        while True:
            delivery = self.buffer.take()
            if delivery is None:
                await self.buffer.wait()
                streak = 0
                continue
            await self._run_one(slot, delivery)
            streak += 1
            if streak >= YIELD_EVERY:
                streak = 0
                await asyncio.sleep(0)

    async def watch(self) -> None:
        """Cancel handlers that take too long and let the breaker probe, until cancelled."""
        timeout = self.config.handler_timeout
        while True:
            await asyncio.sleep(min(0.5, timeout / 4))
            now = time.monotonic()
            for slot in self.slots:
                slot.cancel_late(now, timeout)
            if self._breaker.may_probe():
                self.buffer.probe()

    async def _run_one(self, slot: Slot, delivery: Delivery) -> None:
        slot.started = time.monotonic()
        slot.delivery = delivery
        head = Head.of(delivery)
        try:
            error = await self._attempt(slot, delivery, head)
            seconds = time.monotonic() - slot.started
            if error is None:
                self.settler.handled(delivery, head, seconds)
                if self._breaker.succeeded():
                    logger.info("a message succeeded: handling goes on")
                    self.buffer.unhold()
                    self.settler.monitors.breaker(is_open=False)
            else:
                await self._failed(delivery, head, error, seconds)
        except OUTAGE_ERRORS as exc:
            where = f"{delivery.stream} {delivery.entry_id}"
            logger.warning("%s is not settled (%s); it is redelivered", where, exc)
        except Exception:  # it must not end this worker, and then the next one
            where = f"{delivery.stream} {delivery.entry_id}"
            logger.exception("%s cannot be settled; it is redelivered after its lease", where)
            self.settler.let_go(delivery)
        finally:
            self.buffer.done(time.monotonic() - slot.started)

    async def _attempt(self, slot: Slot, delivery: Delivery, head: Head) -> BaseException | None:
        """Run the handler; return what it raised."""
        try:
            if self.settler.monitors:
                with self.settler.monitors.running(work_of(delivery, head)):
                    await self._handle(slot, delivery, head)
            else:
                await self._handle(slot, delivery, head)
        except asyncio.CancelledError as exc:
            if slot.uncancel():
                raise  # the drain is over; the entry is handed back
            return exc  # the handler's own doing
        except KeyboardInterrupt:  # Ctrl-C where no signal handler can be set
            raise
        except BaseException as exc:  # a handler must not end the worker
            return exc
        finally:
            slot.delivery = None
            slot.uncancel()
        return None

    async def _handle(self, slot: Slot, delivery: Delivery, head: Head) -> None:
        if head.problem or head.event_type is None:
            raise InvalidEventError(head.problem)
        route = self.router.route(delivery.stream, head.event_type)
        context = EventContext(
            head.message_id,
            route.model.event_type,
            delivery.stream,
            delivery.entry_id,
            head.attempt,
            delivery.deliveries,
            self.redis,
            self.ctx,
        )
        try:
            await route.run(head.data, context)
        except asyncio.CancelledError:
            if not slot.only_late:
                raise
            msg = f"handler took longer than {self.config.handler_timeout:g} s"
            raise TimeoutError(msg) from None

    async def _failed(
        self, delivery: Delivery, head: Head, error: BaseException, seconds: float
    ) -> None:
        decision = self.policy.decide(error, head.attempt)
        # What can never succeed says nothing about the dependencies of the rest.
        passing = not (isinstance(decision, DeadLetter) and decision.reason != "retries")
        if passing and self._hold(head, error):
            self.buffer.put_back(delivery)
            self.settler.report("held", delivery, head, error, seconds)
        else:
            await self.settler.failed(delivery, head, error, decision, seconds)

    def _hold(self, head: Head, error: BaseException) -> bool:
        if self._breaker.failed(head.message_id):
            self._held_for = type(error).__name__
            logger.error(
                "%d different messages failed in a row, the last with %s: %s. Waiting until one "
                "succeeds; no retries are used up meanwhile",
                self.config.breaker_threshold,
                self._held_for,
                text_of(error),
            )
            self.buffer.hold()
            self.settler.monitors.breaker(is_open=True)
        return self._breaker.is_open
