# /// script
# dependencies = ["huey", "redis", "hiredis"]
# ///
"""Huey on Redis, ``huey_consumer``, with threads as its documentation advises when in doubt."""

from huey import RedisHuey

from .work import CONCURRENCY, NAME, PAD, REDIS, exec_module, handle_sync

huey = RedisHuey(NAME, url=REDIS)


@huey.task()
def message(sent: int, pad: str) -> None:
    """Handle it."""
    handle_sync(sent)


def send(sent: int) -> None:
    """Enqueue one."""
    message(sent, PAD)


def work() -> None:
    """Run the worker."""
    workers = ("--workers", str(CONCURRENCY), "--worker-type", "thread")
    exec_module("huey.bin.huey_consumer", f"{__name__}.huey", *workers, "--quiet")
