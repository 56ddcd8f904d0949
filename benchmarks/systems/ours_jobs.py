# /// script
# dependencies = [
#   "arq>=0.28,<0.29", "pydantic>=2.10", "pydantic-settings>=2.7", "python-dotenv>=1.0",
#   "redis[hiredis]>=5.2,<6", "uvloop>=0.21",
# ]
# ///
"""Ours: jobs under leases, or with BENCH_ARQ_SERVICE under arq's own worker as a service."""

import os

from pydantic import SecretStr
from workerbase import BaseArqWorkerSettings, Ctx
from workerbase.delivery import ArqAdapter
from workerbase.jobs import LeasedJobs, LeasedJobsConfig
from workerbase.process.runner import run
from workerbase.process.settings import resolved_settings

from .work import CONCURRENCY, PAD, REDIS, handle

config = LeasedJobsConfig(redis_dsn=SecretStr(REDIS), max_jobs=CONCURRENCY)
adapter = ArqAdapter(config)


async def message(ctx: Ctx, sent: int, pad: str) -> None:
    """Handle it."""
    await handle(sent)


class Settings(BaseArqWorkerSettings):
    """The worker."""

    config = config
    functions = (message,)
    services = () if os.environ.get("BENCH_ARQ_SERVICE") else (LeasedJobs(),)


def session() -> ArqAdapter:
    """Close it in the end."""
    return adapter


async def send(sent: int) -> None:
    """Enqueue one."""
    await adapter.enqueue("message", sent, PAD)


def work() -> None:
    """Run the worker."""
    run(resolved_settings(Settings))
