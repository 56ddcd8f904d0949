"""A worker with all of telemetry, run as a process of its own."""

from workerbase import (
    BaseArqWorkerSettings,
    Event,
    EventContext,
    EventRouter,
    PermanentError,
    WorkerConfig,
)
from workerbase.cli import make_cli
from workerbase.telemetry import process, sentry
from workerbase.telemetry.logs import LogContext
from workerbase.telemetry.tracing import Tracing

events = EventRouter()


class Paid(Event, type="order.paid", stream="orders"):
    email: str


@events.on(Paid)
async def on_paid(event: Paid, ctx: EventContext) -> None:
    raise PermanentError("refused by https://u:hunter2@bank")


class WorkerSettings(BaseArqWorkerSettings):
    config = WorkerConfig.load()
    router = events
    setup_process = process.setup
    monitors = (Tracing(config), LogContext(), *sentry.if_configured())


if __name__ == "__main__":
    make_cli("told_worker:WorkerSettings")()
