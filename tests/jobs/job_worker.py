"""A worker that tests kill, freeze and stop; it takes its configuration from the environment."""

import asyncio
import logging
import os
import signal
import sys

from arq.cron import cron
from workerbase.base import BaseArqWorkerSettings
from workerbase.jobs import LeasedJobs, LeasedJobsConfig
from workerbase.process.runner import run
from workerbase.process.settings import resolved_settings
from workerbase.task_utils import get_redis
from workerbase.types import Ctx


async def _note(ctx: Ctx, what: str) -> None:
    await get_redis(ctx).rpush("record", what)


async def quick(ctx: Ctx, name: str) -> None:
    await _note(ctx, f"did {name}")


async def slow(ctx: Ctx, name: str, seconds: float) -> None:
    await _note(ctx, f"began {name}")
    await asyncio.sleep(seconds)
    await _note(ctx, f"did {name}")


async def kill(ctx: Ctx, after: float) -> None:
    await _note(ctx, "began kill")
    await asyncio.sleep(after)
    os.kill(os.getpid(), signal.SIGKILL)


async def stubborn(ctx: Ctx) -> None:
    await _note(ctx, "began stubborn")
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await _note(ctx, "ignored")


async def tick(ctx: Ctx) -> None:
    await _note(ctx, str(ctx["job_id"]))


def load() -> type[BaseArqWorkerSettings]:
    logging.basicConfig(level="INFO")

    class Settings(BaseArqWorkerSettings):
        config = LeasedJobsConfig.load()
        functions = (quick, slow, kill, stubborn)
        services = (LeasedJobs(),)
        keep_result = 60
        cron_jobs = (
            (cron(tick, name="tick", second=set(range(60))),) if "TICKS" in os.environ else ()
        )

    return Settings


if __name__ == "__main__":
    sys.exit(run(resolved_settings(load())))
