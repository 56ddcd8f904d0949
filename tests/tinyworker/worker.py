"""Handlers and tasks that do what the message says.

``TINY_BREAK`` breaks the worker itself; with ``TINY_JOBS=arq`` arq's own worker runs the jobs, and
with ``TINY_HISTORY`` the worker writes the history of the console.
"""

import asyncio
import logging
import os
import time
from typing import Any

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from workerbase import BaseArqWorkerSettings, Ctx, PermanentError, task
from workerbase.console import History
from workerbase.jobs import LeasedJobs
from workerbase.process import heartbeat
from workerbase.streams import Event, EventContext, EventRouter, Stream, Streams
from workerbase.streams.consumer import Consumer
from workerconfig import Config

BREAK = os.environ.get("TINY_BREAK", "")

logger = logging.getLogger(__name__)

if BREAK == "import":
    import no_such_module  # type: ignore[import-not-found]  # noqa: F401

router = EventRouter(Stream("orders", start="beginning", own=True))


class Order(Event, type="order", stream="orders"):
    number: int
    how: str = "fine"
    seconds: float = 0.0


@router.on(Order)
async def on_order(event: Order, ctx: EventContext) -> None:
    await ctx.redis.execute_command("HINCRBY", "begun", event.number, 1)
    logger.info("handling")
    if event.how == "blocks":
        time.sleep(event.seconds)  # noqa: ASYNC251 - a mistake that users make
    await asyncio.sleep(event.seconds)
    if event.how == "fails":
        msg = f"order {event.number} failed [/red]"
        raise ValueError(msg)
    if event.how == "refused":
        msg = f"order {event.number} refused"
        raise PermanentError(msg)
    await ctx.redis.execute_command("HINCRBY", "done", event.number, 1)


@task()
async def add(ctx: Ctx, left: int, right: int = 1, *, seconds: float = 0.0) -> int:
    redis: Any = ctx["redis"]
    await redis.hset("begun", "add", 1)
    logger.info("adding")
    await asyncio.sleep(seconds)
    await redis.hset("sums", str(left), left + right)
    return left + right


async def startup(ctx: Ctx) -> None:
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    if BREAK == "startup":
        msg = "the project's own startup failed"
        raise RuntimeError(msg)
    print(f"started on {loop}", flush=True)


async def never_returns(self: Consumer, room: int) -> list[Any]:
    await asyncio.Event().wait()
    return []


async def breaks(self: Consumer, room: int) -> list[Any]:
    msg = "a bug in the consumer"
    raise RuntimeError(msg)


if BREAK == "stuck consumer":
    heartbeat.STALL_S = 1.0
    Consumer._read = never_returns  # type: ignore[method-assign]
if BREAK == "crashing consumer":
    Consumer._read = breaks  # type: ignore[method-assign]


class WorkerSettings(BaseArqWorkerSettings):
    config = Config.load()
    functions = (add,)
    services = (
        Streams(router),
        *([] if os.environ.get("TINY_JOBS") == "arq" else [LeasedJobs()]),
        *([History()] if os.environ.get("TINY_HISTORY") else []),
    )
    on_startup = startup


if BREAK == "impatient":
    # Plain arq's client retries for half a minute before arq may end.
    WorkerSettings.redis_settings.retry = Retry(NoBackoff(), 1)  # type: ignore[attr-defined]
