# Owned by arq-worker-template: `copier update` overwrites edits; write handlers (see `events`).
"""The stream consumer: reads, hands to handlers, settles. At least once, never less.

One coroutine reads ahead into the buffer, ``concurrency`` long-lived slots take from it, and the
acker confirms in batches; no task, timer or round trip is spent on a single message. Beside them
run the lease keeper, the takeover of abandoned entries, and the watch over handler timeouts.
"""

import asyncio
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any
from uuid import uuid4

from redis.exceptions import ResponseError

from . import lease
from .acks import Acker
from .breaker import Breaker
from .buffer import Buffer
from .config import WorkerConfig
from .connect import OUTAGE_ERRORS
from .errors import InvalidEventError, PoisonError
from .events import EventContext, EventRouter, Head
from .health import Vitals
from .janitor import Janitor
from .lease import Delivery, Leases
from .link import RedisLink
from .retry import DeadLetter, RetryPolicy
from .services import Services
from .settle import Outcome, Settler
from .types import Ctx, EntryId, RedisClient, StreamName

logger = logging.getLogger(__name__)

BLOCK_MS = 1000
YIELD_EVERY = 32
"""A slot lets the other coroutines run after so many handlers that never waited."""

Observer = Callable[[Outcome, Delivery, "Head", BaseException | None], None]


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

    def uncancel(self) -> None:
        """Take back what `cancel_late` did: only the handler was meant."""
        self.timed_out = False
        if self.task is not None:
            self.task.uncancel()


class Consumer:
    """Reads the streams of a router as one member of the consumer group.

    Args:
        redis: the client for everything but reading.
        reader: a client of its own for the blocking read, from `connect.raw_entries`.
        router: the handlers.
        config: see `WorkerConfig`.
        policy: when to retry; from ``config`` if not given.
        ctx: the worker's ``ctx``, which handlers see as ``EventContext.worker``.
        link: what the process knows about Redis.
        observer: told the outcome of every delivery.
        block_ms: how long a read waits in Redis; None polls, for servers that cannot block.
    """

    def __init__(
        self,
        redis: RedisClient,
        reader: RedisClient,
        router: EventRouter,
        config: WorkerConfig,
        *,
        policy: RetryPolicy | None = None,
        ctx: Ctx | None = None,
        link: RedisLink | None = None,
        observer: Observer | None = None,
        block_ms: int | None = BLOCK_MS,
    ) -> None:
        # The name is new with each start, so that what a former process of this host left
        # pending is never mistaken for ours.
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self.counts: Counter[Outcome] = Counter()
        self._redis = redis
        self._reader = reader
        self._router = router
        self._config = config
        self._policy = policy or config.retry_policy()
        self._ctx: Ctx = {} if ctx is None else ctx
        self._link = link or RedisLink()
        self._observer = observer
        self._block_ms = block_ms
        self._held: dict[StreamName, dict[EntryId, Delivery]] = {s: {} for s in router.streams}
        self._leases = {
            stream: Leases(redis, stream, config.consumer_group, self.name, config.lease_timeout)
            for stream in router.streams
        }
        self._buffer: Buffer[Delivery] = Buffer(config.concurrency, config.prefetch)
        self._acker = Acker(redis, config.consumer_group, self._link, self._acked)
        self._breaker = Breaker(config.breaker_threshold)
        self._settler = Settler(
            redis,
            self._link,
            group=config.consumer_group,
            consumer=self.name,
            queue_name=config.queue_name,
            dlq_max_entries=config.dlq_max_entries,
        )
        self._janitor = Janitor(redis, router, config, self.name, self._link)
        self._slots = [Slot() for _ in range(config.concurrency)]
        self._core = Services()
        self._last_pass = time.monotonic()
        self._reading = False
        self.reads = 0
        """Reads that Redis has answered."""

    # --- life cycle

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until ``stop`` is set, then drain.

        Raises:
            ExceptionGroup: a loop ended that must not; nothing is lost, but this consumer is
                done.
        """
        logger.info("consuming %s as %s", ", ".join(self._router.streams), self.name)
        intake, core = Services(), self._core
        core.start(f"{self.name}: renew", self._renew_loop())
        core.start(f"{self.name}: watch", self._watch_loop())
        core.start(f"{self.name}: ack", self._acker.run())
        for index, slot in enumerate(self._slots):
            slot.task = core.start(f"{self.name}: slot {index}", self._slot_loop(slot))
        intake.start(f"{self.name}: read", self._read_loop())
        intake.start(f"{self.name}: takeover", self._takeover_loop())
        intake.start(f"{self.name}: janitor", self._janitor.run())
        try:
            await Services.wait(stop, intake, core)
        finally:
            # Whatever ended the run, nobody reads on, and what can be handed back is.
            await intake.cancel()
            await self._drain()

    def vitals(self) -> Vitals:
        """Say how the consumer is, for the heartbeat."""
        running = [slot for slot in self._slots if slot.delivery is not None]
        oldest = min(running, key=lambda slot: slot.started, default=None)
        return Vitals(
            name="consumer",
            # Waiting for room in the buffer is no standstill; a read that never returns is.
            last_pass=self._last_pass if self._reading else time.monotonic(),
            overdue_at=None if oldest is None else oldest.started + self._config.handler_timeout,
            overdue=None if oldest is None else self._describe(oldest),
        )

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits, runs or has to be acknowledged in this process."""
        return not len(self._buffer) and not any(self._held.values())

    async def _drain(self) -> None:
        self._buffer.pause()
        waiting = {delivery.entry_id for delivery in self._buffer.clear()}
        # Kept are those that run and those that only wait for their acknowledgement.
        await self._hand_back({i for held in self._held.values() for i in held} - waiting)
        if running := self._buffer.running:
            logger.info("draining: %d handlers still run", running)
            try:
                await asyncio.wait_for(self._buffer.quiet.wait(), self._config.drain_seconds)
            except TimeoutError:
                logger.warning(
                    "drain took longer than %g s; %d handlers are cancelled and their messages "
                    "handed back",
                    self._config.drain_seconds,
                    self._buffer.running,
                )
        await self._core.cancel()
        try:
            await self._acker.flush()
        except OUTAGE_ERRORS as exc:
            logger.warning("could not acknowledge at the end: %s; they are handled again", exc)
            return
        await self._hand_back(())
        for leases in self._leases.values():
            try:
                await leases.leave()
            except OUTAGE_ERRORS as exc:
                logger.warning("could not leave the group of %s: %s", leases.stream, exc)

    async def _hand_back(self, keep: Collection[EntryId]) -> None:
        for stream, leases in self._leases.items():
            try:
                count = await leases.hand_back(keep)
            except OUTAGE_ERRORS as exc:
                logger.warning(
                    "could not hand back entries of %s (%s); others take them after the lease",
                    stream,
                    exc,
                )
            else:
                if count:
                    logger.info("handed %d entries of %s back", count, stream)

    async def _ensure_groups(self) -> None:
        while True:
            try:
                for stream in self._router.streams:
                    await self._ensure_group(stream)
            except OUTAGE_ERRORS as exc:
                await self._link.wait_after(exc, "creating the consumer groups")
            else:
                self._link.ok()
                return

    async def _ensure_group(self, stream: StreamName) -> None:
        try:
            # From "0", not "$": what was published before the first start is work, too.
            await self._redis.execute_command(
                "XGROUP", "CREATE", stream, self._config.consumer_group, "0", "MKSTREAM"
            )
        except ResponseError as exc:
            if "BUSYGROUP" not in str(exc):
                raise

    # --- reading

    async def _read_loop(self) -> None:
        # Not before the loops start: where Redis is away this waits, and a stop must end that.
        await self._ensure_groups()
        while True:
            room = await self._buffer.room()
            self._reading, self._last_pass = True, time.monotonic()
            try:
                deliveries = await self._read(room)
            except OUTAGE_ERRORS as exc:
                self._reading = False
                if "NOGROUP" in str(exc):
                    logger.warning("%s; creating the group again", exc)
                    await self._ensure_groups()
                else:
                    await self._link.wait_after(exc, "reading")
                continue
            self._reading = False
            self.reads += 1
            self._link.ok()
            if deliveries:
                self._buffer.add(deliveries)
            elif self._block_ms is None:
                await asyncio.sleep(0.001)

    async def _read(self, room: int) -> list[Delivery]:
        streams = self._router.streams
        block = ("BLOCK", self._block_ms) if self._block_ms is not None else ()
        # COUNT is for each stream, so a busy stream cannot keep the others out.
        count = max(1, room // len(streams))
        reply: list[Any] | None = await self._reader.execute_command(
            "XREADGROUP", "GROUP", self._config.consumer_group, self.name, "COUNT", count,
            *block, "STREAMS", *streams, *[">"] * len(streams),
        )  # fmt: skip
        deliveries: list[Delivery] = []
        for name, entries in reply or ():
            stream = name.decode()
            held = self._held[stream]
            for entry_id, fields in entries:
                delivery = Delivery(stream, EntryId(entry_id.decode()), fields)
                held[delivery.entry_id] = delivery
                deliveries.append(delivery)
        return deliveries

    # --- handling

    async def _slot_loop(self, slot: Slot) -> None:
        streak = 0
        while True:
            delivery = self._buffer.take()
            if delivery is None:
                await self._buffer.wait()
                streak = 0
                continue
            await self._run(slot, delivery)
            streak += 1
            if streak >= YIELD_EVERY:
                streak = 0
                await asyncio.sleep(0)

    async def _run(self, slot: Slot, delivery: Delivery) -> None:
        """Handle and settle one delivery that the buffer counts as running."""
        slot.started = time.monotonic()
        slot.delivery = delivery
        try:
            await self._settle(delivery, *await self._attempt(slot, delivery))
        finally:
            self._buffer.done(time.monotonic() - slot.started)

    async def _attempt(self, slot: Slot, delivery: Delivery) -> tuple[Head, BaseException | None]:
        head = Head.of(delivery)
        error: BaseException | None = None
        try:
            await self._handle(delivery, head)
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if slot.timed_out:
                error = TimeoutError(f"handler took longer than {self._config.handler_timeout:g} s")
            elif task is not None and task.cancelling():
                raise  # the drain is over; the entry is handed back
            else:
                error = exc  # the handler's own doing
        except (Exception, SystemExit) as exc:  # a handler must not end the worker
            error = exc
        finally:
            slot.delivery = None
            if slot.timed_out:
                slot.uncancel()
        return head, error

    async def _settle(self, delivery: Delivery, head: Head, error: BaseException | None) -> None:
        if error is not None:
            await self._failed(delivery, head, error)
            return
        self._acker.add(delivery)
        self._report("handled", delivery, head)
        if self._breaker.succeeded():
            logger.info("a message succeeded: handling goes on")
            self._buffer.unhold()

    async def _handle(self, delivery: Delivery, head: Head) -> None:
        if head.problem or head.event_type is None:
            raise InvalidEventError(head.problem)
        route = self._router.route(delivery.stream, head.event_type)
        context = EventContext(
            head.message_id,
            route.model.event_type,
            delivery.stream,
            delivery.entry_id,
            head.attempt,
            delivery.deliveries,
            self._redis,
            self._ctx,
        )
        await route.run(head.data, context)

    async def _failed(self, delivery: Delivery, head: Head, error: BaseException) -> None:
        decision = self._policy.decide(error, head.attempt)
        # What can never succeed says nothing about the dependencies of the rest.
        passing = not (isinstance(decision, DeadLetter) and decision.reason != "retries")
        if passing and self._hold(head, error):
            self._buffer.put_back(delivery)
            self._report("held", delivery, head, error)
            return
        if isinstance(decision, DeadLetter):
            outcome = await self._settler.set_aside(delivery, error, decision, head.attempt)
        else:
            outcome = await self._settler.retry(delivery, error, decision)
        self._release(delivery)
        self._report(outcome, delivery, head, error)

    def _hold(self, head: Head, error: BaseException) -> bool:
        if self._breaker.failed(head.message_id):
            logger.error(
                "%d different messages failed in a row, the last with %s: %s. Waiting until one "
                "succeeds; no retries are used up meanwhile",
                self._config.breaker_threshold,
                type(error).__name__,
                error,
            )
            self._buffer.hold()
        return self._breaker.is_open

    def _release(self, delivery: Delivery) -> None:
        self._held[delivery.stream].pop(delivery.entry_id, None)

    def _acked(self, stream: StreamName, ids: list[EntryId]) -> None:
        held = self._held[stream]
        for entry_id in ids:
            held.pop(entry_id, None)
        self._link.ok()

    def _report(
        self, outcome: Outcome, delivery: Delivery, head: Head, error: BaseException | None = None
    ) -> None:
        self.counts[outcome] += 1
        if error is not None:
            logger.warning(
                "%s %s of %s: %s (%s: %s)",
                (head.event_type or b"?").decode(errors="replace"),
                head.message_id,
                delivery.stream,
                outcome.replace("_", " "),
                type(error).__name__,
                error,
            )
        if self._observer is not None:
            self._observer(outcome, delivery, head, error)

    def _describe(self, slot: Slot) -> str:
        delivery = slot.delivery
        return "" if delivery is None else f"{delivery.stream} {delivery.entry_id}"

    # --- leases

    async def _renew_loop(self) -> None:
        period = self._config.lease_timeout * lease.RENEW_SHARE
        while True:
            await asyncio.sleep(period)
            for stream, held in self._held.items():
                try:
                    lost = await self._leases[stream].renew(list(held))
                except OUTAGE_ERRORS as exc:
                    # NOGROUP: the reader makes the group again, and what was held is lost to us.
                    self._link.failed(exc, "renewing leases")
                else:
                    self._lose(stream, lost)

    def _lose(self, stream: StreamName, lost: list[EntryId]) -> None:
        held = self._held[stream]
        running = {slot.delivery for slot in self._slots}
        gone: set[Delivery] = set()
        for entry_id in lost:
            delivery = held.pop(entry_id, None)
            if delivery is None:
                continue  # settled while the renewal was under way
            gone.add(delivery)
            if delivery in running:
                logger.warning(
                    "the lease of %s %s ran out while it was handled; it may run twice",
                    stream,
                    entry_id,
                )
        self._buffer.drop(gone)

    async def _takeover_loop(self) -> None:
        period = self._config.lease_timeout * lease.SCAN_SHARE
        while True:
            await asyncio.sleep(period)
            for leases in self._leases.values():
                try:
                    while await self._take_over(leases):
                        pass
                except OUTAGE_ERRORS as exc:
                    if "NOGROUP" not in str(exc):
                        self._link.failed(exc, "taking over abandoned entries")

    async def _take_over(self, leases: Leases) -> bool:
        """Take over one abandoned entry; false if there was none."""
        reclaimed = await leases.reclaim()
        if reclaimed is None:
            return False
        delivery = reclaimed.delivery
        if reclaimed.deleted:
            logger.error(
                "%s %s was deleted while it was pending, probably by XTRIM or XDEL: its message "
                "is lost",
                delivery.stream,
                delivery.entry_id,
            )
            self._report("deleted", delivery, Head.of(delivery))
            return True
        self._held[delivery.stream][delivery.entry_id] = delivery
        if delivery.deliveries >= self._config.max_deliveries:
            await self._bury(delivery)
        elif delivery.deliveries == 0:
            # Handed back by a consumer that drained: nobody suspects it.
            if await leases.begin(delivery):
                self._buffer.add([delivery])
        else:
            await self._run_alone(leases, delivery)
        return True

    async def _bury(self, delivery: Delivery) -> None:
        error = PoisonError(
            f"delivered {delivery.deliveries} times and never settled: it probably kills its worker"
        )
        head = Head.of(delivery)
        outcome = await self._settler.set_aside(delivery, error, DeadLetter("poison"), head.attempt)
        self._release(delivery)
        self._report(outcome, delivery, head, error)

    async def _run_alone(self, leases: Leases, delivery: Delivery) -> None:
        """Run a redelivered entry with nothing else in flight, for it may kill the process.

        After one lease it has proved itself harmless enough for the others to run beside it.
        """
        self._buffer.pause()
        try:
            await self._buffer.quiet.wait()
            if not await leases.begin(delivery):
                self._release(delivery)
                return
            self._buffer.start()
            slot = Slot()
            self._slots.append(slot)
            slot.task = self._core.start(
                f"{self.name}: alone", self._run(slot, delivery), may_end=True
            )
            slot.task.add_done_callback(lambda _: self._slots.remove(slot))
            await asyncio.wait({slot.task}, timeout=self._config.lease_timeout)
        finally:
            self._buffer.resume()

    # --- timeouts

    async def _watch_loop(self) -> None:
        period = min(0.5, self._config.handler_timeout / 4)
        while True:
            await asyncio.sleep(period)
            now = time.monotonic()
            for slot in self._slots:
                slot.cancel_late(now, self._config.handler_timeout)
            if self._breaker.may_probe():
                self._buffer.probe()
