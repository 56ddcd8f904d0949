"""A worker process for the stream tests; it takes its configuration from the environment."""

import asyncio
import logging
import os
import sys

from streamkit import RECORD, Work
from workerbase.base import BaseArqWorkerSettings
from workerbase.config import WorkerConfig
from workerbase.events import EventContext, EventRouter
from workerbase.runner import run

router = EventRouter()


@router.on(Work)
async def handle(event: Work, ctx: EventContext) -> None:
    """Say so, then do what the message says."""
    await ctx.redis.execute_command("RPUSH", RECORD, f"start {event.number} {os.getpid()}")
    if event.kind == "killer":
        os._exit(9)
    if event.kind == "toxic":
        raise ValueError("toxic")
    await asyncio.sleep(event.seconds)
    if event.kind == "late killer":
        os._exit(9)
    await ctx.redis.execute_command("RPUSH", RECORD, f"end {event.number} {os.getpid()}")


def load() -> type[BaseArqWorkerSettings]:
    own_router, own_config = router, WorkerConfig.load()

    class Settings(BaseArqWorkerSettings):
        config = own_config
        router = own_router

    return Settings


if __name__ == "__main__":
    logging.basicConfig(level="INFO", format="%(asctime)s %(name)s %(message)s")
    sys.exit(run(load))
