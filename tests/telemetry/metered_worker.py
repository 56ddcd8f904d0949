"""A worker with metrics in a process of its own; its handlers do what the message says."""

import asyncio
import os
import sys
import time

from workerbase import (
    BaseArqWorkerSettings,
    Ctx,
    Event,
    EventContext,
    EventRouter,
    PermanentError,
    runner,
    task,
)
from workerbase.cli.app import setup_logging
from workerbase.config import WorkerConfig
from workerbase.telemetry import sample
from workerbase.telemetry.metrics import Metrics

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
    config = WorkerConfig.load()
    functions = (ship,)
    router = router
    monitors = (Metrics(),)


if __name__ == "__main__":
    sample.MAX_AGE_S = 0.5
    setup_logging(WorkerSettings.config)
    sys.exit(runner.run(lambda: WorkerSettings))
