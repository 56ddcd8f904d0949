# /// script
# dependencies = ["redis[hiredis]>=5.2,<6", "uvloop>=0.21"]
# ///
"""The bare loop: redis-py, XREADGROUP COUNT 100, one pipelined XACK per message, nothing else.

No lease, retry, dead letter or drain: what a stream consumer cannot do without, and the measure
of ours. Same redis-py, hiredis and uvloop as ours. Handlers that wait run a batch at a time.
"""

import asyncio
import json

import uvloop
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from .work import CONCURRENCY, NAME, PAD, REDIS, SECONDS, handle

GROUP = "workers"
redis = Redis.from_url(REDIS)


async def send(sent: int) -> None:
    """XADD one."""
    await redis.xadd(NAME, _fields(sent))


async def send_many(sents: list[int]) -> None:
    """XADD a batch in one pipeline."""
    async with redis.pipeline(transaction=False) as pipe:
        for sent in sents:
            pipe.xadd(NAME, _fields(sent))
        await pipe.execute()


def session() -> Redis:
    """Close it in the end."""
    return redis


def _fields(sent: int) -> dict[str, str]:
    return {"type": "message", "data": json.dumps({"sent": sent, "pad": PAD})}


async def _loop() -> None:
    async with redis as client:
        try:
            await client.xgroup_create(NAME, GROUP, "0", mkstream=True)
        except ResponseError as exc:
            if "BUSYGROUP" not in str(exc):
                raise
        count = min(100, CONCURRENCY) if SECONDS else 100
        while True:
            reply = await client.xreadgroup(GROUP, "one", {NAME: ">"}, count=count, block=1000)
            for _, entries in reply:
                sents = [json.loads(fields[b"data"])["sent"] for _, fields in entries]
                if SECONDS:
                    await asyncio.gather(*map(handle, sents))
                else:
                    for sent in sents:
                        await handle(sent)
                async with client.pipeline(transaction=False) as pipe:
                    for entry_id, _ in entries:
                        pipe.xack(NAME, GROUP, entry_id)
                    await pipe.execute()


def work() -> None:
    """Run the loop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_loop())
