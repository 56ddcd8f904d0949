"""Messages or jobs that this process has fetched and not yet started.

A few wait here so that a free slot never waits for Redis. The queue holds no more than is handled
within `AHEAD_S`: what waits behind slow handlers here could be running in another worker.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar


class Startable(Protocol):
    """Work that waits in the queue and notes that it was started."""

    started: bool


T = TypeVar("T", bound=Startable)

AHEAD_S = 0.02
"""How far ahead of the slots the queue is filled, in seconds of work."""
SLOT_POLL_S = 0.01
MAX_FAILED = 500
"""Maximum number of failed items that wait in a suspended queue beside the others."""
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
        self._reader: asyncio.Future[None] | None = None
        # Slow until proven fast: the first read takes hardly more than there are slots.
        self._mean_s = 1.0
        self._next: tuple[T, asyncio.Event] | None = None
        self._paused = self.closed = False
        self._trials: int | None = None
        self._failed = 0
        self.running = 0
        self.idle = asyncio.Event()
        """Set while nothing runs."""
        self.idle.set()

    def __len__(self) -> int:
        return len(self._queue)

    def __contains__(self, item: T) -> bool:
        return item in self._queue

    # --- the reader's side

    def _room(self) -> int:
        ahead = int(self._concurrency * AHEAD_S / max(self._mean_s, _FASTEST_S))
        limit = self._concurrency + min(self._prefetch, ahead)
        if self.suspended:
            # What failed waits here, too. It must not fill the queue: each trial that fails makes
            # room for something else to try, which may succeed.
            limit += min(self._failed, MAX_FAILED)
        room = limit - len(self._queue) - self.running
        # Read in large bites while there is something left to do, at once when there is not.
        return room if not self._queue or self.suspended or room * 2 >= limit else 0

    async def room(self) -> int:
        """Wait until there is room; return for how many items."""
        while self._paused or (room := self._room()) <= 0:
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        return room

    def add(self, items: Iterable[T]) -> None:
        """Append items to the queue."""
        self._queue.extend(items)
        self._wake_slots()

    # --- the slots' side

    def take(self) -> T | None:
        """Start the next item, or return None when there is none to start now."""
        if self._next is not None:
            item, taken = self._next
            self._next = None
            taken.set()
            return self._start(item)
        if self._paused or not self._queue:
            return None
        if self._trials is None:
            item = self._queue.popleft()
        elif self._trials:
            self._trials -= 1
            item = self._queue.pop()
        else:
            return None
        return self._start(item)

    def _start(self, item: T) -> T:
        item.started = True
        self.running += 1
        self.idle.clear()
        return item

    def done(self, seconds: float) -> None:
        """Record that an item ran for ``seconds``."""
        self._mean_s += _SMOOTHING * (seconds - self._mean_s)
        self.running -= 1
        if not self.running:
            self.idle.set()
        if self._reader is not None and not self._paused and self._room() > 0:
            self._wake_reader()

    async def wait(self) -> None:
        """Wait until `take` may return an item."""
        future = asyncio.get_running_loop().create_future()
        self._waiters.append(future)
        await future

    def _wake_slots(self) -> None:
        wanted = len(self._queue) if self._trials is None else self._trials
        self._wake(0 if self._paused else wanted)

    def _wake(self, wanted: int) -> None:
        while wanted > 0 and self._waiters:
            future = self._waiters.popleft()
            if not future.done():
                future.set_result(None)
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
        self._paused = self.closed = True
        self._queue.clear()

    def unpause(self) -> None:
        """Undo `pause`; a closed queue stays closed."""
        if not self.closed:
            self._paused = False
            self._wake_slots()
            self._wake_reader()

    @property
    def suspended(self) -> bool:
        """Whether items start only by `allow_trial`."""
        return self._trials is not None

    def suspend(self) -> None:
        """Start items only by `allow_trial`."""
        self._trials = 0
        self._failed = 0

    def allow_trial(self) -> None:
        """Let one item start: the newest, so that each trial takes another one."""
        self._trials = 1
        self._wake_slots()

    def resume(self) -> None:
        """Undo `suspend`."""
        self._trials = None
        self._wake_slots()

    def put_back(self, item: T) -> None:
        """Return an item that was started and not settled to the head of the queue."""
        item.started = False
        self._failed += 1
        self._queue.appendleft(item)

    def drop(self, lost: set[T]) -> None:
        """Forget waiting items whose leases are lost."""
        self._queue = deque(item for item in self._queue if item not in lost)
        # There may be room now, and with nothing running nobody else would say so.
        self._wake_reader()
