# Owned by arq-worker-template: `copier update` overwrites edits; test your handlers in tests/.
"""The worker that the chaos run kills; it takes its configuration from the environment."""

import asyncio
import os
import sys
from typing import Any, cast

from arq.worker import func

from ..config import WorkerConfig
from ..events import Event, EventContext, EventRouter
from ..runner import run
from ..settings import BaseArqWorkerSettings
from ..task_utils import get_redis
from ..types import Ctx, RedisClient

STREAM = "chaos"
HANDLED, RAN = "chaos:handled", "chaos:ran"
"""Hashes of message and job number to the number of times it was handled, or ran."""

MAX_TRIES = 10
"""Of messages and jobs that are there when their worker dies."""

router = EventRouter()


class Work(Event, type="work", stream=STREAM):
    """One message of the chaos run."""

    number: int
    kind: str = "good"


@router.on(Work)
async def handle(event: Work, ctx: EventContext) -> None:
    """Handle it, fail, or die, as the message says."""
    await work(ctx.redis, HANDLED, event.number, event.kind)


async def job(ctx: Ctx, number: int, kind: str) -> None:
    """Do the same as a job."""
    await work(get_redis(ctx), RAN, number, kind)


async def work(redis: RedisClient, record: str, number: int, kind: str) -> None:
    """Work, fail or die."""
    await asyncio.sleep(0.002)
    if kind == "toxic":
        msg = "toxic"
        raise ValueError(msg)
    if kind == "killer":
        os._exit(9)
    await redis.execute_command("HINCRBY", record, number, 1)


def load() -> type[BaseArqWorkerSettings]:
    """Make the settings."""
    chaos_router, chaos_config = router, WorkerConfig.load()

    class ChaosSettings(BaseArqWorkerSettings):
        config = chaos_config
        router = chaos_router
        # Kills come from outside, too, and must not condemn a good job.
        functions = (func(cast("Any", job), name="job", max_tries=MAX_TRIES),)

    return ChaosSettings


if __name__ == "__main__":
    sys.exit(run(load))
