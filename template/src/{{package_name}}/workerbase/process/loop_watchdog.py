"""Logs where the event loop is blocked, from a thread: a blocked loop cannot log it itself."""

import logging
import sys
import threading
import time
import traceback

logger = logging.getLogger(__name__)

MAX_LAG_S = 3.0
"""Maximum tolerated event-loop lag in seconds; well below the length of a lease."""
MAX_FRAMES = 12
"""Number of innermost frames that are logged; the outer ones are the worker's own."""


class LoopWatchdog:
    """A thread that waits for the beats of an event loop.

    Args:
        interval: seconds between two beats.
    """

    def __init__(self, interval: float) -> None:
        self._max_wait = interval + MAX_LAG_S
        self._beats = threading.Event()
        self._stopped = False

    def start(self) -> None:
        """Watch the event loop of the calling thread."""
        name, args = "loop watchdog", (threading.get_ident(),)
        threading.Thread(target=self._run, args=args, name=name, daemon=True).start()

    def beat(self) -> None:
        """Record that the loop turns."""
        self._beats.set()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped = True
        self._beats.set()

    def _run(self, watched: int) -> None:
        since = time.monotonic()
        while not self._stopped:
            if self._beats.wait(self._max_wait):
                self._beats.clear()
                since = time.monotonic()
                continue
            logger.error(
                "the event loop has been blocked for %.0f s: nothing else runs in this worker, and "
                "its leases are about to end; move blocking calls to asyncio.to_thread, here: %s",
                time.monotonic() - since,
                _stack(watched),
            )
            self._beats.wait()
            logger.warning("the event loop runs again after %.0f s", time.monotonic() - since)


def _stack(thread: int) -> str:
    """Name what the thread executes, the innermost frame first."""
    frames = sys._current_frames()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    if thread not in frames:
        return "?"
    stack = traceback.extract_stack(frames[thread], limit=MAX_FRAMES)
    return " < ".join(f"{f.filename}:{f.lineno} in {f.name}" for f in reversed(stack))
