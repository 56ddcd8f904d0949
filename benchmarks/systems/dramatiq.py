# /// script
# dependencies = ["dramatiq[redis]", "hiredis"]
# ///
"""dramatiq on Redis, ``dramatiq --processes 1``; its concurrency is threads."""

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from .work import CONCURRENCY, NAME, PAD, REDIS, exec_module, handle_sync

broker = RedisBroker(url=REDIS)
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=NAME)
def message(sent: int, pad: str) -> None:
    """Handle it."""
    handle_sync(sent)


def send(sent: int) -> None:
    """Enqueue one."""
    message.send(sent, PAD)


def work() -> None:
    """Run the worker."""
    exec_module("dramatiq", __name__, "--processes", "1", "--threads", str(CONCURRENCY))
