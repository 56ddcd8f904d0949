"""A worker with all of telemetry and the command line of a project, run as a process of its own.

With ``REPORTING_JOBS=arq`` arq's own worker runs the jobs.
"""

import os

from workerbase import BaseArqWorkerSettings, Ctx, PermanentError, task
from workerbase.cli import make_cli
from workerbase.jobs import LeasedJobs
from workerbase.streams import Event, EventContext, EventRouter, Streams
from workerbase.telemetry import Telemetry
from workerconfig import Config

events = EventRouter()


class Paid(Event, type="order.paid", stream="orders"):
    email: str


@events.on(Paid)
async def on_paid(event: Paid, ctx: EventContext) -> None:
    raise PermanentError("refused by https://u:hunter2@bank")


@task()
async def bill(ctx: Ctx, email: str) -> None:
    raise PermanentError("refused by https://u:hunter2@bank")


class WorkerSettings(BaseArqWorkerSettings):
    config = Config.load()
    functions = (bill,)
    services = (
        Streams(events),
        *([] if os.environ.get("REPORTING_JOBS") == "arq" else [LeasedJobs()]),
        Telemetry(),
    )


if __name__ == "__main__":
    make_cli("reporting_worker:WorkerSettings")()
