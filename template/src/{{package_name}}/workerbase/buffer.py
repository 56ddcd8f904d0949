# Owned by arq-worker-template: `copier update` overwrites edits; set WORKER_PREFETCH instead.
"""Entries, or jobs, that this process has taken and not yet started.

A few wait here so that a slot which frees never waits for Redis. Never more than are handled in
`AHEAD_S`: what waits behind slow handlers here could be running in another worker.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar


class Startable(Protocol):
    """What waits in a buffer and notes that it was started."""

    started: bool


T = TypeVar("T", bound=Startable)

AHEAD_S = 0.02
_SMOOTHING = 0.05
_FASTEST_S = 1e-4


class Buffer(Generic[T]):
    """A queue between the reader and the slots; all on one event loop."""

    def __init__(self, concurrency: int, prefetch: int) -> None:
        self._concurrency = concurrency
        self._prefetch = prefetch
        self._queue: deque[T] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._reader: asyncio.Future[None] | None = None
        # Slow until proven fast: the first read takes hardly more than there are slots.
        self._mean_s = 1.0
        self._next: tuple[T, asyncio.Event] | None = None
        self._paused = self._closed = False
        self._probes: int | None = None
        self.running = 0
        self.quiet = asyncio.Event()
        """Set while nothing runs."""
        self.quiet.set()

    def __len__(self) -> int:
        return len(self._queue)

    def __contains__(self, delivery: T) -> bool:
        return delivery in self._queue

    # --- the reader's side

    def _room(self) -> int:
        ahead = int(self._concurrency * AHEAD_S / max(self._mean_s, _FASTEST_S))
        limit = self._concurrency + min(self._prefetch, ahead)
        room = limit - len(self._queue) - self.running
        # Read in large bites while there is something left to do, at once when there is not.
        return room if not self._queue or room * 2 >= limit else 0

    async def room(self) -> int:
        """Wait until entries are wanted; return how many."""
        while self._paused or (room := self._room()) <= 0:
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        return room

    def add(self, deliveries: Iterable[T]) -> None:
        """Put entries at the end of the queue."""
        self._queue.extend(deliveries)
        self._wake_slots()

    # --- the slots' side

    def take(self) -> T | None:
        """Start the next entry, or return None when there is none to start now."""
        if self._next is not None:
            delivery, taken = self._next
            self._next = None
            taken.set()
            return self._start(delivery)
        if self._paused or not self._queue:
            return None
        if self._probes is None:
            delivery = self._queue.popleft()
        elif self._probes:
            self._probes -= 1
            delivery = self._queue.pop()
        else:
            return None
        return self._start(delivery)

    def _start(self, delivery: T) -> T:
        delivery.started = True
        self.running += 1
        self.quiet.clear()
        return delivery

    def done(self, seconds: float) -> None:
        """Note that an entry ran for ``seconds``."""
        self._mean_s += _SMOOTHING * (seconds - self._mean_s)
        self.running -= 1
        if not self.running:
            self.quiet.set()
        if self._reader is not None and not self._paused and self._room() > 0:
            self._wake_reader()

    async def wait(self) -> None:
        """Wait until `take` may have something."""
        future = asyncio.get_running_loop().create_future()
        self._idle.append(future)
        await future

    def _wake_slots(self) -> None:
        wanted = len(self._queue) if self._probes is None else self._probes
        self._wake(0 if self._paused else wanted)

    def _wake(self, wanted: int) -> None:
        while wanted > 0 and self._idle:
            future = self._idle.popleft()
            if not future.done():
                future.set_result(None)
                wanted -= 1

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    # --- steering

    async def run_next(self, delivery: T) -> None:
        """Give ``delivery`` to the next free slot, even while paused; return when one has it."""
        taken = asyncio.Event()
        self._next = delivery, taken
        self._wake(1)
        try:
            await taken.wait()
        finally:
            if not taken.is_set():
                self._next = None

    async def wait_quiet(self, patience: float | None) -> None:
        """Wait until nothing runs, at most ``patience`` seconds if that is not None."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self.quiet.wait()

    def pause(self) -> None:
        """Start nothing and read nothing until `resume`."""
        self._paused = True

    def close(self) -> None:
        """Pause for good and forget what waits."""
        self._paused = self._closed = True
        self._queue.clear()

    def resume(self) -> None:
        """Go on."""
        if not self._closed:
            self._paused = False
            self._wake_slots()
            self._wake_reader()

    @property
    def holding(self) -> bool:
        """Whether entries start only by `probe`."""
        return self._probes is not None

    def hold(self) -> None:
        """Start entries only by `probe`."""
        self._probes = 0

    def probe(self) -> None:
        """Let one entry start: the newest, so that probes go round."""
        self._probes = 1
        self._wake_slots()

    def unhold(self) -> None:
        """Start entries freely again."""
        self._probes = None
        self._wake_slots()

    def put_back(self, delivery: T) -> None:
        """Return an entry that was started and not settled."""
        delivery.started = False
        self._queue.appendleft(delivery)

    def drop(self, lost: set[T]) -> None:
        """Forget waiting entries that are no longer ours."""
        self._queue = deque(delivery for delivery in self._queue if delivery not in lost)
        # There may be room now, and with nothing running nobody else would say so.
        self._wake_reader()
