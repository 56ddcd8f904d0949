"""A worker with telemetry in a process of its own; its handlers do what the message says.

With ``METERED_JOBS=arq`` arq's own worker runs the jobs; with ``METERED_HISTORY`` it heeds pauses.
"""

import asyncio
import os
import sys
import time

from workerbase import BaseArqWorkerSettings, Ctx, PermanentError, task
from workerbase.cli.terminal import setup_logging
from workerbase.console import History
from workerbase.jobs import LeasedJobs
from workerbase.process import runner
from workerbase.process.settings import resolved_settings
from workerbase.streams import Event, EventContext, EventRouter, Streams
from workerbase.telemetry import Telemetry, redis_sample
from workerconfig import Config

router = EventRouter()

SECRET = "hunter2"
"""In payloads, arguments and errors; nowhere else."""


class Order(Event, type="order.placed", stream="orders"):
    how: str
    password: str = SECRET


class Unseen(Event, type="order.cancelled", stream="orders"):
    """Never published."""


async def act(how: str, again: bool) -> None:
    match how:
        case "retries" if not again:
            raise ValueError(SECRET)
        case "fails":
            raise ValueError(SECRET)
        case "refused":
            raise PermanentError(SECRET)
        case "blocks":
            time.sleep(0.3)  # noqa: ASYNC251 - a mistake that users make
        case "waits":
            await asyncio.sleep(60)
        case "dies":
            os._exit(9)
        case _:
            pass


@router.on(Order)
async def on_order(event: Order, ctx: EventContext) -> None:
    await act(event.how, ctx.attempt > 1)


@router.on(Unseen)
async def on_unseen(event: Unseen, ctx: EventContext) -> None: ...


@task()
async def ship(ctx: Ctx, how: str, password: str = SECRET) -> None:
    await act(how, ctx["job_try"] > 1)


class WorkerSettings(BaseArqWorkerSettings):
    config = Config.load()
    functions = (ship,)
    services = (
        Streams(router),
        *([] if os.environ.get("METERED_JOBS") == "arq" else [LeasedJobs()]),
        Telemetry(),
        *([History()] if os.environ.get("METERED_HISTORY") else []),
    )


if __name__ == "__main__":
    redis_sample.MAX_AGE_S = 0.5
    setup_logging(WorkerSettings.config)
    sys.exit(runner.run(resolved_settings(WorkerSettings)))
