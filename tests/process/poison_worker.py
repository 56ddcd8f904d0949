"""A worker for work that tries to end it: ``python poison_worker.py leased|arq``."""

import asyncio
import logging
import sys
from typing import cast

from arq.connections import ArqRedis
from workerbase import BaseArqWorkerSettings, Ctx, task
from workerbase.jobs import LeasedJobs
from workerbase.process.runner import run
from workerbase.process.settings import resolved_settings
from workerbase.streams import Event, EventContext, EventRouter, Streams
from workerbase.task_utils import get_redis
from workerconfig import Config

RECORD = "record"


class Deed(Event, type="deed", stream="deeds"):
    name: str
    what: str = "nothing"


class UnprintableError(Exception):
    """Cannot be turned into text."""

    def __str__(self) -> str:
        raise SystemExit(9)

    __repr__ = __str__


async def leave() -> None:
    sys.exit(4)


async def interrupt() -> None:
    raise KeyboardInterrupt


async def do(what: str) -> None:
    """Do what ``what`` names."""
    task = asyncio.current_task()
    assert task is not None
    match what:
        case "exit":
            sys.exit(3)
        case "exit in a child task":
            await asyncio.create_task(leave())
        case "interrupt":
            raise KeyboardInterrupt
        case "interrupt in a child task":
            await asyncio.create_task(interrupt())
        case "cancel itself":
            task.cancel()
            await asyncio.sleep(3600)
        case "stop the loop":
            asyncio.get_running_loop().stop()
            await asyncio.sleep(3600)
        case "raise what has no text":
            raise UnprintableError
        case _:
            await asyncio.sleep(0.1)


async def act(redis: ArqRedis, name: str, what: str) -> None:
    await redis.rpush(RECORD, f"begin {name}")
    await do(what)
    await redis.rpush(RECORD, f"end {name}")
    cancel = cast("asyncio.Task[object]", asyncio.current_task()).cancel
    if what == "cancel itself and return":
        cancel()
    elif what == "be cancelled when it has returned":
        asyncio.get_running_loop().call_later(0.1, cancel)


router = EventRouter()


@router.on(Deed)
async def handle(event: Deed, ctx: EventContext) -> None:
    await act(get_redis(ctx.worker.ctx), event.name, event.what)


@task(max_retries=3)
async def deed(ctx: Ctx, name: str, what: str) -> None:
    await act(get_redis(ctx), name, what)


class Settings(BaseArqWorkerSettings):
    config = Config.load()
    functions = (deed,)
    services = (Streams(router), LeasedJobs()) if "leased" in sys.argv else (Streams(router),)


if __name__ == "__main__":
    logging.basicConfig(level="INFO", format="%(asctime)s %(name)s %(message)s")
    sys.exit(run(resolved_settings(Settings)))
