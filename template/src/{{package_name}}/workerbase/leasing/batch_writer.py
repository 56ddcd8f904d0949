"""Writes to Redis in batches what has finished.

One command for each message or job would cost a round trip, and as much CPU as everything else.
No handler waits for these writes, so they are collected for `LINGER_S`; after a crash within that
time the work is done a second time.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from ..broker.availability import RedisAvailability
from ..broker.redis_errors import OUTAGE_ERRORS

LINGER_S = 0.01
"""How long items are collected before they are written, in seconds."""
MAX_BATCH = 500

T = TypeVar("T")


class BatchWriter(Generic[T]):
    """Writes items in batches, in order; what Redis did not confirm is written again.

    Args:
        write: writes one batch.
        doing: description of that, for the log.
        availability: records outages.
    """

    def __init__(
        self,
        write: Callable[[list[T]], Awaitable[None]],
        doing: str,
        availability: RedisAvailability,
    ) -> None:
        self._write = write
        self._doing = doing
        self._availability = availability
        self._waiting: list[T] = []
        self._wake = asyncio.Event()
        self._lock = asyncio.Lock()
        self._sent = 0
        self.running = False
        """Whether `run` writes what is added."""

    def add(self, item: T) -> None:
        """Write ``item`` soon."""
        if not self._waiting:  # else the write that is due takes this item along
            self._wake.set()
        self._waiting.append(item)

    async def run(self) -> None:
        """Write until cancelled; an outage of Redis only delays it."""
        self.running = True
        try:
            while True:
                await self._wake.wait()
                await asyncio.sleep(LINGER_S)
                self._wake.clear()
                try:
                    await self.flush()
                except OUTAGE_ERRORS as exc:
                    self._wake.set()
                    await self._availability.back_off(exc, self._doing)
        finally:
            self.running = False

    async def flush(self) -> None:
        """Write everything that waits; what Redis does not confirm keeps waiting.

        Raises:
            RedisError, OSError: Redis did not accept it.
        """
        async with self._lock:
            while self._waiting:
                # Redis may have accepted what it did not confirm: the same batch is written again.
                self._sent = self._sent or min(len(self._waiting), MAX_BATCH)
                await self._write(self._waiting[: self._sent])
                del self._waiting[: self._sent]
                self._sent = 0
                self._availability.record_success()
