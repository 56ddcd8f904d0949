"""A worker of the tests of rolling changes: ``ROLLING_JOBS`` says who runs its jobs."""

import asyncio
import logging
import os
import sys
from typing import Any

from workerbase import BaseArqWorkerSettings, Ctx, task
from workerbase.jobs import LeasedJobs
from workerbase.process.runner import run
from workerbase.process.service import Service
from workerbase.process.settings import resolved_settings
from workerbase.task_utils import job_info
from workerconfig import Config

LEASED = os.environ["ROLLING_JOBS"] == "leased"


@task(max_retries=3, backoff=0.05, backoff_max=0.05)
async def work(ctx: Ctx, seconds: float, failures: int = 0) -> str:
    redis: Any = ctx["redis"]
    info = job_info(ctx)
    await redis.rpush("begun", f"{info.job_id}:{info.attempt}")
    await asyncio.sleep(seconds)
    if info.attempt <= failures:
        raise ValueError(f"failure {info.attempt}")
    await redis.rpush("done", f"{info.job_id}:{'leased' if LEASED else 'arq'}")
    return "done"


class Settings(BaseArqWorkerSettings):
    config = Config.load()
    functions = (work,)
    services: tuple[Service, ...] = (LeasedJobs(),) if LEASED else ()


if __name__ == "__main__":
    logging.basicConfig(level="INFO")
    sys.exit(run(resolved_settings(Settings)))
