"""A worker process for the stream tests; it takes its configuration from the environment."""

import asyncio
import logging
import os
import sys

from streamkit import RECORD, Work
from workerbase.base import BaseArqWorkerSettings
from workerbase.jobs import LeasedJobs
from workerbase.process.runner import run
from workerbase.process.settings import resolved_settings
from workerbase.streams import EventContext, EventRouter, Streams
from workerconfig import Config

router = EventRouter()


@router.on(Work)
async def handle(event: Work, ctx: EventContext) -> None:
    """Record the start, then do what the message says."""
    await ctx.redis.execute_command("RPUSH", RECORD, f"start {event.number} {os.getpid()}")
    if event.kind == "killer":
        os._exit(9)
    if event.kind == "toxic":
        raise ValueError("toxic")
    await asyncio.sleep(event.seconds)
    if event.kind == "late killer":
        os._exit(9)
    await ctx.redis.execute_command("RPUSH", RECORD, f"end {event.number} {os.getpid()}")


class Settings(BaseArqWorkerSettings):
    config = Config.load()
    services = (Streams(router), LeasedJobs())


if __name__ == "__main__":
    logging.basicConfig(level="INFO", format="%(asctime)s %(name)s %(message)s")
    sys.exit(run(resolved_settings(Settings)))
