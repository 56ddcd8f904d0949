# /// script
# dependencies = ["streaq"]
# ///
"""streaq, run by ``Worker.run_sync``; its command line would log each job at INFO."""

from streaq import Worker

from .work import CONCURRENCY, NAME, PAD, REDIS, handle

worker = Worker(redis_url=REDIS, queue_name=NAME, concurrency=CONCURRENCY)


@worker.task()
async def message(sent: int, pad: str) -> None:
    """Handle it."""
    await handle(sent)


def session() -> Worker:
    """Connect."""
    return worker


async def send(sent: int) -> None:
    """Enqueue one."""
    await message.enqueue(sent, PAD)


async def send_many(sents: list[int]) -> None:
    """Enqueue a batch."""
    await worker.enqueue_many([message.enqueue(sent, PAD) for sent in sents])


def work() -> None:
    """Run the worker."""
    worker.run_sync()
