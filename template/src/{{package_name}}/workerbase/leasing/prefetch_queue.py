"""Messages or jobs that this process has fetched and not yet started.

A few wait here so that a free slot never waits for Redis. The queue holds no more than is handled
within `AHEAD_S`: what waits behind slow handlers here could be running in another worker. Nor does
it hold more than `MAX_HELD_BYTES`, whatever the size of the items, but always one.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar


class Startable(Protocol):
    """Work that waits in the queue and notes that it was started."""

    started: bool

    @property
    def size(self) -> int:
        """Size of what was fetched, in bytes."""
        ...


T = TypeVar("T", bound=Startable)

AHEAD_S = 0.02
"""How far ahead of the slots the queue is filled, in seconds of work."""
SLOT_POLL_S = 0.01
WOKEN_AT_ONCE = 2
"""Number of slots that an arrival wakes, and each of these in turn."""
MAX_HELD_BYTES = 64 * 1024 * 1024
"""Maximum size of what waits and runs, in bytes; it is exceeded by what one fetch brings along."""
MAX_FETCHED = 256
"""Maximum number of items of one fetch, whose sizes are not known before."""
_ASSUMED_BYTES, _ASSUMED_ITEMS = 1_000_000, 8
"""The size of items before any was fetched, and how many fetched ones outweigh it."""
_SMOOTHING = 0.05
_FASTEST_S = 1e-4


class PrefetchQueue(Generic[T]):
    """A queue between the reader and the slots; all on one event loop.

    Args:
        concurrency: number of slots.
        prefetch: maximum number of items that wait beside those that run.
    """

    def __init__(self, concurrency: int, prefetch: int) -> None:
        self._concurrency = concurrency
        self._prefetch = prefetch
        self._queue: deque[T] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._woken = 0
        """Number of slots that are about to take an item."""
        self._reader: asyncio.Future[None] | None = None
        self._refill_below = 0
        """Number of items in hand above which nobody asks for room, which would cost each item.
        It may be out of date, so nobody relies on it once the queue is empty."""
        # Slow until proven fast: the first read takes hardly more than there are slots.
        self._mean_s = 1.0
        self._mean_bytes: float = _ASSUMED_BYTES
        self._held_bytes = 0
        self._next: tuple[T, asyncio.Event] | None = None
        self._paused = self.closed = False
        self.running = 0
        self.idle = asyncio.Event()
        """Set while nothing runs."""
        self.idle.set()

    def __len__(self) -> int:
        return len(self._queue)

    # --- the reader's side

    def _room(self) -> int:
        ahead = int(self._concurrency * AHEAD_S / max(self._mean_s, _FASTEST_S))
        limit = self._concurrency + min(self._prefetch, ahead)
        self._refill_below = limit // 2
        room = limit - len(self._queue) - self.running
        if room > (fitting := self.fitting()):
            return fitting
        # Read in large bites while there is something left to do, at once when there is not.
        return room if not self._queue or room * 2 >= limit else 0

    async def room(self) -> int:
        """Wait until there is room; return for how many items."""
        while self._paused or (room := self._room()) <= 0:
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        return room

    def fitting(self) -> int:
        """Return how many more items are expected to fit; one if nothing is held."""
        fitting = int((MAX_HELD_BYTES - self._held_bytes) / max(self._mean_bytes, 1))
        return fitting if self._held_bytes else max(fitting, 1)

    def add(self, items: Sequence[T]) -> None:
        """Append items to the queue."""
        size, weight = sum([item.size for item in items]), len(items) + _ASSUMED_ITEMS
        self._mean_bytes = (self._mean_bytes * _ASSUMED_ITEMS + size) / weight
        self._held_bytes += size
        self._queue.extend(items)
        self._wake_slots()

    # --- the slots' side

    def take(self) -> T | None:
        """Start the next item, or return None when there is none to start now."""
        if self._next is not None:
            item, taken = self._next
            self._next = None
            self._held_bytes += item.size
            taken.set()
            return self._start(item)
        if self._paused or not self._queue:
            return None
        return self._start(self._queue.popleft())

    def _start(self, item: T) -> T:
        item.started = True
        self.running += 1
        self.idle.clear()
        return item

    def done(self, seconds: float, size: int = 0) -> None:
        """Record that an item of ``size`` bytes ran for ``seconds``."""
        self._held_bytes -= size
        self._mean_s += _SMOOTHING * (seconds - self._mean_s)
        self.running -= 1
        if not self.running:
            self.idle.set()
        if self._reader is None or self._paused:
            return
        in_hand = len(self._queue) + self.running
        if (not self._queue or in_hand <= self._refill_below) and self._room() > 0:
            self._wake_reader()

    async def wait(self) -> None:
        """Wait until `take` may return an item."""
        future = asyncio.get_running_loop().create_future()
        self._waiters.append(future)
        taken = 0
        try:
            await future
            taken = 1
        finally:
            self._woken -= future.done() and not future.cancelled()
            self._wake_slots(taken)

    def _wake_slots(self, taken: int = 0) -> None:
        # Each slot that wakes up wakes others: all of them soon where handlers wait for something,
        # only a few where these have handled everything before the others are there.
        left = len(self._queue) - self._woken - taken
        self._wake(0 if self._paused else min(left, WOKEN_AT_ONCE))

    def _wake(self, wanted: int) -> None:
        while wanted > 0 and self._waiters:
            future = self._waiters.popleft()
            if not future.done():
                future.set_result(None)
                self._woken += 1
                wanted -= 1

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    # --- steering

    async def start_exclusively(self, item: T) -> None:
        """Give ``item`` to the next free slot, even while paused; return when one has it."""
        taken = asyncio.Event()
        self._next = item, taken
        self._wake(1)
        try:
            await taken.wait()
        finally:
            if not taken.is_set():
                self._next = None

    async def wait_slot(self) -> None:
        """Wait, while paused, until a slot is free."""
        while self.running >= self._concurrency:  # noqa: ASYNC110 - events cost each item
            await asyncio.sleep(SLOT_POLL_S)

    async def wait_idle(self, at_most_s: float | None) -> None:
        """Wait until nothing runs, or until ``at_most_s`` seconds have passed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await self.idle.wait()

    def pause(self) -> None:
        """Start nothing and fetch nothing until `unpause`."""
        self._paused = True

    def close(self) -> None:
        """Pause for good and forget what waits."""
        self._held_bytes -= sum(item.size for item in self._queue)
        self._paused = self.closed = True
        self._queue.clear()

    def unpause(self) -> None:
        """Undo `pause`; a closed queue stays closed."""
        if not self.closed:
            self._paused = False
            self._wake_slots()
            self._wake_reader()

    def drop(self, lost: set[T]) -> None:
        """Forget waiting items whose leases are lost."""
        self._held_bytes -= sum(item.size for item in self._queue if item in lost)
        self._queue = deque(item for item in self._queue if item not in lost)
        # There may be room now, and with nothing running nobody else would say so.
        self._wake_reader()
