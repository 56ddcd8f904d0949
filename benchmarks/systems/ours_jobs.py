# /// script
# dependencies = [
#   "arq>=0.28,<0.29", "pydantic>=2.10", "pydantic-settings>=2.7", "python-dotenv>=1.0",
#   "redis[hiredis]>=5.2,<6", "uvloop>=0.21",
# ]
# ///
"""Ours: the job worker, run as a generated project runs it."""

from pydantic import SecretStr
from workerbase import BaseArqWorkerSettings, Ctx, WorkerConfig
from workerbase.delivery.arq import ArqAdapter
from workerbase.runner import run

from .work import CONCURRENCY, PAD, REDIS, handle

config = WorkerConfig(redis_dsn=SecretStr(REDIS), max_jobs=CONCURRENCY)
adapter = ArqAdapter(config)


async def message(ctx: Ctx, sent: int, pad: str) -> None:
    """Handle it."""
    await handle(sent)


class Settings(BaseArqWorkerSettings):
    """The worker."""

    config = config
    functions = (message,)


def session() -> ArqAdapter:
    """Close it in the end."""
    return adapter


async def send(sent: int) -> None:
    """Enqueue one."""
    await adapter.enqueue("message", sent, PAD)


def work() -> None:
    """Run the worker."""
    run(lambda: Settings)
