"""A worker whose lifespan does not end: ``python slow_hook_worker.py PLACE``."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator

from workerbase import BaseArqWorkerSettings, Ctx, WorkerConfig
from workerbase.process import runner
from workerbase.process.service import Service, WorkerContext
from workerbase.process.settings import resolved_settings

runner.SHUTDOWN_S = 0.5
runner.CLOSE_TIMEOUT_S = 0.5
PLACE = sys.argv[1]


async def ignore_cancellation() -> None:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)


@contextlib.asynccontextmanager
async def lifespan(ctx: Ctx) -> AsyncIterator[None]:
    print("starting", flush=True)
    if PLACE == "startup-waits":
        await asyncio.sleep(3600)
    if PLACE == "startup-blocks":
        time.sleep(3600)  # noqa: ASYNC251 - as a client without asyncio does
    if PLACE == "startup-ignores":
        await ignore_cancellation()
    yield
    if PLACE == "shutdown-waits":
        await asyncio.sleep(3600)
    if PLACE == "shutdown-ignores":
        await ignore_cancellation()
    if PLACE == "shutdown-blocks":
        time.sleep(3600)  # noqa: ASYNC251 - as a careless hook does


class Slow(Service):
    name = "slow"

    async def startup(self, worker: WorkerContext) -> None:
        if PLACE == "service-waits":
            await asyncio.sleep(3600)
        if PLACE == "service-blocks":
            time.sleep(3600)  # noqa: ASYNC251

    async def serve(self, stop: asyncio.Event, drain: float) -> None:
        await stop.wait()


class Settings(BaseArqWorkerSettings):
    config = WorkerConfig.load()
    lifespan = lifespan
    services = (Slow(),)


if __name__ == "__main__":
    sys.exit(runner.run(resolved_settings(Settings)))
