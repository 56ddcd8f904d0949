"""Logs where the event loop is blocked, from a thread: a blocked loop cannot log it itself."""

import asyncio
import logging
import sys
import threading
import time
import traceback

logger = logging.getLogger(__name__)

MAX_LAG_S = 3.0
"""Maximum tolerated event-loop lag in seconds; well below the length of a lease."""
PERIOD_S = 0.25
"""Interval at which the event loop is asked to answer: as precise is the reported duration."""
MAX_FRAMES = 12
"""Number of innermost frames that are logged; the outer ones are the worker's own."""


class LoopWatchdog:
    """A thread that asks an event loop to answer, several times a second."""

    def __init__(self) -> None:
        self._answered = threading.Event()
        self._stopped = threading.Event()

    def start(self) -> None:
        """Watch the event loop of the calling thread."""
        arguments = asyncio.get_running_loop(), threading.get_ident()
        name = "loop watchdog"
        threading.Thread(target=self._run, args=arguments, name=name, daemon=True).start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()

    def _run(self, loop: asyncio.AbstractEventLoop, watched: int) -> None:
        while not self._stopped.wait(PERIOD_S):
            asked = time.monotonic()
            self._answered.clear()
            try:
                loop.call_soon_threadsafe(self._answered.set)
            except RuntimeError:  # the loop is closed
                return
            if self._answered.wait(MAX_LAG_S) or self._stopped.is_set():
                continue
            logger.error(
                "the event loop has been blocked for %.1f s: nothing else runs in this worker, and "
                "its leases are about to end; move blocking calls to asyncio.to_thread, here: %s",
                time.monotonic() - asked,
                _stack(watched),
            )
            while not self._answered.wait(PERIOD_S):
                if self._stopped.is_set():
                    return
            logger.warning("the event loop runs again after %.1f s", time.monotonic() - asked)


def _stack(thread: int) -> str:
    """Name what the thread executes, the innermost frame first."""
    frames = sys._current_frames()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    if thread not in frames:
        return "?"
    stack = traceback.extract_stack(frames[thread], limit=MAX_FRAMES)
    return " < ".join(f"{f.filename}:{f.lineno} in {f.name}" for f in reversed(stack))
