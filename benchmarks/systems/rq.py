# /// script
# dependencies = ["rq", "hiredis"]
# ///
"""RQ, ``rq worker``: one job at a time, each in a forked process, whatever the concurrency."""

from redis import Redis
from rq import Queue

from .work import NAME, PAD, REDIS, exec_module, handle_sync

queue = Queue(NAME, connection=Redis.from_url(REDIS))


def message(sent: int, pad: str) -> None:
    """Handle it."""
    handle_sync(sent)


def send(sent: int) -> None:
    """Enqueue one."""
    queue.enqueue(message, sent, PAD)


def send_many(sents: list[int]) -> None:
    """Enqueue a batch."""
    queue.enqueue_many([Queue.prepare_data(message, (sent, PAD)) for sent in sents])


def work() -> None:
    """Run the worker."""
    exec_module("rq.cli", "worker", "--quiet", "--url", REDIS, NAME)
