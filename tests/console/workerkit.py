"""What the tests of the inspector share: a worker beside the test, and its client."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import cast

from leasedkit import client_of, settings_of
from waiting import until
from workerbase import BaseArqWorkerSettings
from workerbase.process.runner import serve
from workerbase.process.settings import resolved_settings
from workerbase.types import RedisClient
from workerconfig import Config

__all__ = ["client_of", "settings_of", "working"]


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
