"""What every system under test runs: one handler, and a record of each time that it ran.

Only the standard library, since each system has a virtualenv of its own. A record is three
numbers in a memory-mapped file of this process (when it was sent, begun, ended): about half a
microsecond, the same for all, and readable by the harness while the worker runs.
"""

import asyncio
import itertools
import mmap
import os
import struct
import sys
import threading
import time
from pathlib import Path

REDIS = os.environ.get("BENCH_REDIS", "redis://127.0.0.1:6379/0")
CONCURRENCY = int(os.environ.get("BENCH_CONCURRENCY", "20"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "0"))
"""How long a handler waits."""
NAME = "bench"
"""Of the stream or queue."""
PAD = "x" * 60
"""Makes a message about 100 bytes of JSON."""

RECORD = struct.Struct("=qqq")
MOST_RECORDS = 1_200_000


class _Recorder:
    def __init__(self) -> None:
        folder = Path(os.environ["BENCH_RECORDS"])
        with (folder / str(os.getpid())).open("w+b") as file:
            file.truncate(RECORD.size * MOST_RECORDS)
            self._map = mmap.mmap(file.fileno(), 0)
        self._next = itertools.count()  # atomic, for the systems that use threads

    def add(self, sent: int, begun: int) -> None:
        index = next(self._next)
        RECORD.pack_into(self._map, index * RECORD.size, sent, begun, time.monotonic_ns())


_recorder: _Recorder | None = None
_making = threading.Lock()


def _forget() -> None:
    global _recorder  # noqa: PLW0603 - one per process
    _recorder = None


os.register_at_fork(after_in_child=_forget)


def _record(sent: int, begun: int) -> None:
    global _recorder  # noqa: PLW0603 - one per process
    if _recorder is None:
        with _making:
            _recorder = _recorder or _Recorder()
    _recorder.add(sent, begun)


async def handle(sent: int) -> None:
    """The handler of asynchronous systems."""
    begun = time.monotonic_ns()
    if SECONDS:
        await asyncio.sleep(SECONDS)
    _record(sent, begun)


def handle_sync(sent: int) -> None:
    """The handler of systems with threads or processes."""
    begun = time.monotonic_ns()
    if SECONDS:
        time.sleep(SECONDS)
    _record(sent, begun)


def exec_module(module: str, *args: str) -> None:
    """Become ``python -m module``: how a system's own command line starts its worker."""
    os.execv(sys.executable, [sys.executable, "-m", module, *args])
