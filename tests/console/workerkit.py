"""What the tests of the inspector share: a worker beside the test, and its client."""

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator
from typing import Any, cast

from arq.worker import func
from waiting import until
from workerbase import BaseArqWorkerSettings
from workerbase.broker.client import connect
from workerbase.broker.enqueue import QueueClient
from workerbase.jobs import LeasedJobs
from workerbase.process.runner import serve
from workerbase.process.settings import resolved_settings
from workerbase.types import RedisClient
from workerconfig import Config


@contextlib.asynccontextmanager
async def client_of(config: Config) -> AsyncIterator[QueueClient]:
    client = connect(config.dsn, config.queue_name)
    try:
        yield client
    finally:
        await client.aclose(close_connection_pool=True)


def settings_of(config: Config, *functions: Any, **more: Any) -> type[BaseArqWorkerSettings]:
    """Make settings; local functions go by their short names."""
    named = [func(f, name=f.__name__) if inspect.isfunction(f) else f for f in functions]
    members = {"config": config, "functions": named, "services": (LeasedJobs(),), **more}
    return type("Settings", (BaseArqWorkerSettings,), members)


@contextlib.asynccontextmanager
async def working(settings: type[BaseArqWorkerSettings]) -> AsyncIterator[None]:
    """Run a worker beside the test; it drains at the end."""
    found, stop = resolved_settings(settings), asyncio.Event()
    running = asyncio.create_task(serve(found, stop))
    channel = f"{found.config.queue_name}:wake"
    async with client_of(cast("Config", found.config)) as client:

        async def listens() -> bool:
            redis = cast("RedisClient", client)
            reply = await redis.execute_command("PUBSUB", "NUMSUB", channel)
            return running.done() or reply[1] > 0

        await until(listens)
    try:
        yield
    finally:
        stop.set()
        await running
