"""What the workers of the rolling replacement run; it takes the place of a project's ``worker.py``.

The publisher imports it, too, where the base lies beside it; in a project the base is a part of
the package, and `project.record` writes its imports accordingly.
"""

import asyncio
import json
import time
from typing import Any

from workerbase import BaseArqWorkerSettings, Ctx, task
from workerbase.jobs import LeasedJobs, LeasedJobsConfig
from workerbase.streams import Event, EventContext, EventRouter, Streams, StreamsConfig
from workerbase.task_utils import get_redis

RELEASE = 0
"""Another number in each image, as a line of code is in each release."""

STREAM = "parcels"
BEGUN = "bench:begun"
"""Hash of each number to the number of times that its handling began."""
ENDED = "bench:ended"
"""List of what was handled to its end: number, kind, when sent, when begun, release."""

router = EventRouter()


class Parcel(Event, type="parcel", stream=STREAM):
    """A message with a number of its own."""

    number: int
    sent: int
    """Nanoseconds since the epoch: containers share the clock of their machine."""
    seconds: float
    """How long to work on it."""


@router.on(Parcel)
async def on_parcel(event: Parcel, ctx: EventContext) -> None:
    """Handle a message."""
    await work(ctx.redis, "message", event.number, event.sent, event.seconds)


@task()
async def carry(ctx: Ctx, number: int, sent: int, seconds: float) -> None:
    """Run a job."""
    await work(get_redis(ctx), "job", number, sent, seconds)


async def work(redis: Any, kind: str, number: int, sent: int, seconds: float) -> None:
    """Work, and note in Redis that it began and that it came to its end."""
    begun = time.time_ns()
    await redis.execute_command("HINCRBY", BEGUN, number, 1)
    await asyncio.sleep(seconds)
    record = json.dumps([number, kind, sent, begun, RELEASE])
    await redis.execute_command("RPUSH", ENDED, record)


class Config(StreamsConfig, LeasedJobsConfig):
    """The settings."""


class WorkerSettings(BaseArqWorkerSettings):
    """The worker."""

    config = Config.load()
    functions = (carry,)
    services = (Streams(router), LeasedJobs())
