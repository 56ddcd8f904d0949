# Owned by arq-worker-template: `copier update` overwrites edits; there is nothing to configure.
"""Tell Redis in batches what is done.

One command for each message or job would cost a round trip and as much CPU as all the rest.
Nothing that runs waits for these writes, so they are gathered while one is under way and for
`LINGER_S`; a crash in that time means that the work is done a second time, as a crash always may.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from .connect import OUTAGE_ERRORS
from .link import RedisLink

LINGER_S = 0.005
BATCH = 200

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
        self._waiting: list[tuple[T, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    def add(self, item: T) -> asyncio.Future[None]:
        """Write ``item`` soon; the future is done when Redis has it."""
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((item, written))
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=self._doing)
        return written

    async def _run(self) -> None:
        try:
            while self._waiting:
                if len(self._waiting) < BATCH:
                    await asyncio.sleep(LINGER_S)
                batch = self._waiting[:BATCH]
                try:
                    await self._write([item for item, _ in batch])
                except OUTAGE_ERRORS as exc:
                    await self._link.wait_after(exc, self._doing)
                    continue
                self._link.ok()
                del self._waiting[: len(batch)]
                for _, written in batch:
                    if not written.done():
                        written.set_result(None)
        finally:
            self._task = None

    async def flush(self) -> None:
        """Wait until everything is written."""
        while self._task is not None:
            await asyncio.wait({self._task})
