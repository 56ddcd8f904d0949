"""Faults beside kills and restarts: processes that stand still, answers that are lost, clocks."""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from ..engine.supervisor import cancel
from ..errors import WorkerError

MAX_CHUNK = 1 << 16
LIBRARIES = Path("/usr/lib")


async def stand_still(freeze: Callable[[], None], thaw: Callable[[], None], seconds: float) -> None:
    """Let a process stand still for a while; it goes on also if this is cancelled."""
    freeze()
    try:
        await asyncio.sleep(seconds)
    finally:
        thaw()


def other_clock(seconds: float) -> Mapping[str, str]:
    """Return the environment of a process whose clock is ahead by ``seconds``; behind if negative.

    Raises:
        WorkerError: libfaketime is not installed.
    """
    found = sorted(LIBRARIES.glob("*/faketime/libfaketime.so.1"))
    if not found:
        msg = "another clock needs libfaketime, which is not installed (Debian: libfaketime)"
        raise WorkerError(msg)
    return {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME": f"{seconds:+.0f}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


class LossyProxy:
    """Stands before Redis and loses answers, each with its connection, after Redis has acted.

    Args:
        port: of Redis on this machine.
        share: of the answers that are lost, from 0 to 1.
        dice: decides which.
    """

    def __init__(self, port: int, share: float, dice: random.Random) -> None:
        self._redis = port
        self._share = share
        self._dice = dice
        self.port = 0
        """Where it listens."""
        self.lost = 0
        """Number of answers."""

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator["LossyProxy"]:
        """Listen on a free port."""
        connections: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._serve(reader, writer))
            connections.add(task)
            task.add_done_callback(connections.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self.port = int(server.sockets[0].getsockname()[1])
        try:
            yield self
        finally:
            server.close()
            await cancel(connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # What Redis does not take, or a worker does not wait for, ends with its connection.
        with contextlib.closing(writer), contextlib.suppress(OSError):
            answers, commands = await asyncio.open_connection("127.0.0.1", self._redis)
            with contextlib.closing(commands):
                sending = asyncio.create_task(self._copy(reader, commands, 0.0))
                receiving = asyncio.create_task(self._copy(answers, writer, self._share))
                try:
                    await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    await cancel((sending, receiving))

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, share: float
    ) -> None:
        while chunk := await reader.read(MAX_CHUNK):
            if share and self._dice.random() < share:
                self.lost += 1
                return
            writer.write(chunk)
            await writer.drain()
