# Owned by arq-worker-template: `copier update` overwrites edits; test your handlers in tests/.
"""The worker that the chaos run kills; it takes its configuration from the environment."""

import asyncio
import os
import sys

from ..base import BaseArqWorkerSettings
from ..config import WorkerConfig
from ..events import Event, EventContext, EventRouter
from ..runner import run

STREAM = "chaos"
HANDLED = "chaos:handled"
"""Hash of message number to the number of times it was handled."""

router = EventRouter()


class Work(Event, type="work", stream=STREAM):
    """One message of the chaos run."""

    number: int
    kind: str = "good"


@router.on(Work)
async def handle(event: Work, ctx: EventContext) -> None:
    """Handle it, fail, or die, as the message says."""
    await asyncio.sleep(0.002)
    if event.kind == "toxic":
        msg = "toxic message"
        raise ValueError(msg)
    if event.kind == "killer":
        os._exit(9)
    await ctx.redis.execute_command("HINCRBY", HANDLED, event.number, 1)


def load() -> type[BaseArqWorkerSettings]:
    """Make the settings."""
    chaos_router, chaos_config = router, WorkerConfig.load()

    class ChaosSettings(BaseArqWorkerSettings):
        config = chaos_config
        router = chaos_router

    return ChaosSettings


if __name__ == "__main__":
    sys.exit(run(load))
