"""A worker with a history, and its console: ``python -m benchmarks.console.worker COMMAND``."""

import os

from pydantic import SecretStr
from workerbase import BaseArqWorkerSettings
from workerbase.cli import make_cli
from workerbase.console import History
from workerbase.console.cli.console import console
from workerbase.jobs import LeasedJobs, LeasedJobsConfig
from workerbase.streams import Event, EventContext, EventRouter, Stream, Streams, StreamsConfig


class Config(StreamsConfig, LeasedJobsConfig):
    """The settings."""


router = EventRouter(Stream("bench", start="beginning", own=True))


class Message(Event, type="message", stream="bench"):
    """The message."""


@router.on(Message)
async def on_message(event: Message, ctx: EventContext) -> None:
    """Handle it."""


class Settings(BaseArqWorkerSettings):
    """The worker."""

    config = Config(redis_dsn=SecretStr(os.environ["BENCH_REDIS"]))
    services = (Streams(router), LeasedJobs(), History())


if __name__ == "__main__":
    cli = make_cli("benchmarks.console.worker:Settings")
    cli.add_command(console)
    cli()
