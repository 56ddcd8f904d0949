# Owned by arq-worker-template: `copier update` overwrites edits; run blocking code in a thread.
"""Says where the event loop is stuck, while it is: a blocked loop cannot log it itself."""

import logging
import sys
import threading
import time
import traceback

logger = logging.getLogger(__name__)

PATIENCE_S = 3.0
"""So late may the loop be; well before a blocked loop loses its leases."""
FRAMES = 12
"""The innermost ones; the rest is the worker's own."""


class LoopWatch:
    """A thread that waits for the beats of an event loop.

    Args:
        interval: seconds between two beats.
    """

    def __init__(self, interval: float) -> None:
        self._patience = interval + PATIENCE_S
        self._turned = threading.Event()
        self._stopped = False

    def start(self) -> None:
        """Watch the loop of the calling thread."""
        name, args = "loop watch", (threading.get_ident(),)
        threading.Thread(target=self._run, args=args, name=name, daemon=True).start()

    def turned(self) -> None:
        """Note that the loop turns."""
        self._turned.set()

    def stop(self) -> None:
        """Watch no more."""
        self._stopped = True
        self._turned.set()

    def _run(self, watched: int) -> None:
        since = time.monotonic()
        while not self._stopped:
            if self._turned.wait(self._patience):
                self._turned.clear()
                since = time.monotonic()
                continue
            logger.error(
                "the event loop has not turned for %.0f s: nothing else runs in this worker, and "
                "its leases are about to run out; asyncio.to_thread is for what blocks, here:\n%s",
                time.monotonic() - since,
                "".join(_stack(watched)),
            )
            self._turned.wait()
            logger.warning("the event loop turns again after %.0f s", time.monotonic() - since)


def _stack(thread: int) -> list[str]:
    frames = sys._current_frames()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    return traceback.format_stack(frames[thread], limit=FRAMES) if thread in frames else []
