# Owned by arq-worker-template: `copier update` overwrites edits; there is nothing to configure.
"""Tell Redis in batches what is done.

One command for each message or job would cost a round trip and as much CPU as all the rest.
Nothing that runs waits for these writes, so they are gathered for `LINGER_S`; a crash in that
time means that the work is done a second time, as a crash always may.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from .connect import OUTAGE_ERRORS
from .link import RedisLink

LINGER_S = 0.01
BATCH = 500

T = TypeVar("T")


class Batcher(Generic[T]):
    """Writes items in batches, in order; what Redis did not confirm is written again.

    Args:
        write: writes one batch.
        doing: what that is, for the log.
        link: what the process knows about Redis.
    """

    def __init__(
        self, write: Callable[[list[T]], Awaitable[None]], doing: str, link: RedisLink
    ) -> None:
        self._write = write
        self._doing = doing
        self._link = link
        self._waiting: list[T] = []
        self._wake = asyncio.Event()
        self._lock = asyncio.Lock()
        self.running = False
        """Whether `run` writes what is added."""

    def add(self, item: T) -> None:
        """Write ``item`` soon."""
        self._waiting.append(item)
        self._wake.set()

    async def run(self) -> None:
        """Write until cancelled; Redis being away only delays it."""
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
                    await self._link.wait_after(exc, self._doing)
        finally:
            self.running = False

    async def flush(self) -> None:
        """Write what waits; what Redis does not confirm waits on.

        Raises:
            RedisError, OSError: Redis did not take it.
        """
        async with self._lock:
            while batch := self._waiting[:BATCH]:
                await self._write(batch)
                del self._waiting[: len(batch)]
                self._link.ok()
