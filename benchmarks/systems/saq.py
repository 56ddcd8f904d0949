# /// script
# dependencies = ["saq[hiredis]", "typing_extensions"]
# ///
"""SAQ on Redis, ``saq module.settings``; a connection for each slot."""

from typing import Any

from saq import Queue

from .work import CONCURRENCY, NAME, PAD, REDIS, exec_module, handle

queue = Queue.from_url(REDIS, name=NAME, max_concurrent_ops=max(20, CONCURRENCY))


async def message(ctx: Any, *, sent: int, pad: str) -> None:
    """Handle it."""
    await handle(sent)


settings = {"queue": queue, "functions": [message], "concurrency": CONCURRENCY}


async def send(sent: int) -> None:
    """Enqueue one."""
    await queue.enqueue("message", sent=sent, pad=PAD)


def work() -> None:
    """Run the worker."""
    exec_module("saq", f"{__name__}.settings", "--quiet")
