"""What tests of jobs and of the console share: settings with leased jobs, and a client."""

import contextlib
import inspect
from collections.abc import AsyncIterator
from typing import Any

from arq.worker import func
from workerbase import BaseArqWorkerSettings
from workerbase.broker.client import connect
from workerbase.broker.enqueue import QueueClient
from workerbase.jobs import LeasedJobs
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
