# /// script
# dependencies = ["faststream[redis,cli]", "hiredis", "uvloop"]
# ///
"""FastStream: a stream subscriber in a consumer group, ``faststream run``."""

from faststream import FastStream
from faststream.redis import RedisBroker, StreamSub
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from .work import CONCURRENCY, NAME, PAD, REDIS, exec_module, handle

GROUP = "workers"
broker = RedisBroker(REDIS, logger=None)  # it would log each message twice
app = FastStream(broker, logger=None)


@broker.subscriber(
    stream=StreamSub(NAME, group=GROUP, consumer="one", max_records=100),
    max_workers=CONCURRENCY,
)
async def message(sent: int, pad: str) -> None:
    """Handle it."""
    await handle(sent)


async def prepare() -> None:
    """Create the group from the start of the stream; FastStream would skip what is there."""
    async with Redis.from_url(REDIS) as redis:
        try:
            await redis.xgroup_create(NAME, GROUP, "0", mkstream=True)
        except ResponseError as exc:
            if "BUSYGROUP" not in str(exc):
                raise


def session() -> RedisBroker:
    """Connect the broker."""
    return broker


async def send(sent: int) -> None:
    """Publish one."""
    await broker.publish({"sent": sent, "pad": PAD}, stream=NAME)


def work() -> None:
    """Run the worker."""
    exec_module("faststream", "run", f"{__name__}:app")
