# /// script
# dependencies = [
#   "arq>=0.28,<0.29", "pydantic>=2.10", "pydantic-settings>=2.7", "python-dotenv>=1.0",
#   "redis[hiredis]>=5.2,<6", "uvloop>=0.21",
# ]
# ///
"""Ours: the stream consumer, run as a generated project runs it (the job worker beside it).

With BENCH_HISTORY the worker writes the history of the console.
"""

import os

from pydantic import SecretStr
from workerbase import BaseArqWorkerSettings
from workerbase.jobs import LeasedJobs, LeasedJobsConfig
from workerbase.process.runner import run
from workerbase.process.service import Service
from workerbase.process.settings import resolved_settings
from workerbase.streams import (
    Event,
    EventContext,
    EventPublisher,
    EventRouter,
    Stream,
    Streams,
    StreamsConfig,
)

from .work import CONCURRENCY, NAME, PAD, REDIS, handle

services: tuple[Service, ...] = ()
if os.environ.get("BENCH_HISTORY"):
    from workerbase.console import History

    services = (History(),)


class Config(StreamsConfig, LeasedJobsConfig):
    """The settings."""


config = Config(redis_dsn=SecretStr(REDIS), concurrency=CONCURRENCY)
router = EventRouter(Stream(NAME, start="beginning", own=True))
publisher = EventPublisher(config)


class Message(Event, type="message", stream=NAME):
    """The message."""

    sent: int
    pad: str = PAD


@router.on(Message)
async def on_message(event: Message, ctx: EventContext) -> None:
    """Handle it."""
    await handle(event.sent)


class Settings(BaseArqWorkerSettings):
    """The worker."""

    config = config
    services = (Streams(router), LeasedJobs(), *services)


def session() -> EventPublisher:
    """Close it in the end."""
    return publisher


async def send(sent: int) -> None:
    """Publish one."""
    await publisher.publish(Message(sent=sent))


async def send_many(sents: list[int]) -> None:
    """Publish a batch."""
    await publisher.publish(*[Message(sent=sent) for sent in sents])


def work() -> None:
    """Run the worker."""
    run(resolved_settings(Settings))
