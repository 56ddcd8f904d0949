# /// script
# dependencies = ["arq>=0.28,<0.29", "hiredis"]
# ///
"""Plain arq, as it comes and tuned as far as its options go (``BENCH_TUNED``)."""

import asyncio
import os
from typing import Any

from arq import ArqRedis, Worker
from arq.connections import RedisSettings
from arq.worker import create_worker

from .work import CONCURRENCY, PAD, REDIS, handle

pool = ArqRedis.from_url(REDIS)


async def message(ctx: dict[str, Any], sent: int, pad: str) -> None:
    """Handle it."""
    await handle(sent)


class WorkerSettings:
    """The worker."""

    functions = (message,)
    redis_settings = RedisSettings.from_dsn(REDIS)
    max_jobs = CONCURRENCY
    if os.environ.get("BENCH_TUNED"):
        poll_delay = 0.02
        queue_read_limit = 1000


def session() -> ArqRedis:
    """Close it in the end."""
    return pool


async def send(sent: int) -> None:
    """Enqueue one."""
    await pool.enqueue_job("message", sent, PAD)


def work() -> None:
    """Run the worker; its command line would log each job at INFO."""
    asyncio.set_event_loop(asyncio.new_event_loop())
    worker: Worker = create_worker(WorkerSettings)  # type: ignore[arg-type]
    worker.run()
