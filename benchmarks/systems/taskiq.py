# /// script
# dependencies = ["taskiq", "taskiq-redis", "hiredis", "uvloop"]
# ///
"""taskiq with taskiq-redis' stream broker, the one that acknowledges; one worker process."""

from taskiq_redis import RedisStreamBroker

from .work import CONCURRENCY, NAME, PAD, REDIS, exec_module, handle

broker = RedisStreamBroker(REDIS, queue_name=NAME, consumer_id="0")


@broker.task
async def message(sent: int, pad: str) -> None:
    """Handle it."""
    await handle(sent)


async def prepare() -> None:
    """Connect."""
    await broker.startup()


async def send(sent: int) -> None:
    """Enqueue one."""
    await message.kiq(sent, PAD)


def work() -> None:
    """Run the worker."""
    limits = ("--workers", "1", "--max-async-tasks", str(CONCURRENCY))
    exec_module("taskiq", "worker", f"{__name__}:broker", *limits, "--log-level", "WARNING")
