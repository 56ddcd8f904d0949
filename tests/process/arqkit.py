"""What the tests of arq's worker as a service share: a worker beside the test, and its outcomes."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from waiting import until
from workerbase import BaseArqWorkerSettings, WorkerConfig
from workerbase.broker.client import connect
from workerbase.broker.enqueue import QueueClient
from workerbase.inspector.dead_letters import DeadLetterEntry, DeadLetterQueue
from workerbase.monitor import Monitor, Outcome, Work
from workerbase.process.arq_service import ArqJobs
from workerbase.process.runner import serve
from workerbase.process.service import ResolvedSettings
from workerbase.process.settings import resolved_settings
from workerbase.types import RedisClient

QUEUE = "arq:queue"


@dataclass
class Outcomes(Monitor):
    """The outcomes of jobs, in order."""

    outcomes: list[tuple[str, Outcome, int]] = field(default_factory=list)
    errors: list[BaseException | None] = field(default_factory=list)
    around_errors: list[str] = field(default_factory=list)
    jobs: list[Work] = field(default_factory=list)

    @contextlib.contextmanager
    def around(self, work: Work) -> Generator[None]:
        try:
            yield
        except BaseException as exc:
            self.around_errors.append(type(exc).__name__)
            raise

    def on_finished(
        self, work: Work, outcome: Outcome, error: BaseException | None, seconds: float
    ) -> None:
        self.jobs.append(work)
        self.outcomes.append((work.name, outcome, work.attempt))
        self.errors.append(error)

    def count(self, outcome: Outcome) -> int:
        return Counter(found for _, found, _ in self.outcomes)[outcome]


@dataclass
class Running:
    """A worker that runs beside the test."""

    settings: ResolvedSettings
    client: QueueClient
    stop: asyncio.Event
    task: asyncio.Task[None]
    outcomes: Outcomes
    service: ArqJobs

    @property
    def arq(self) -> Any:
        """Arq's worker itself."""
        return self.service._worker

    @property
    def free_slots(self) -> tuple[int, int]:
        """The slots that arq counts as taken, and those that its semaphore has left."""
        return self.arq.job_counter, self.arq.sem._value

    def beat(self) -> dict[str, Any]:
        """The newest heartbeat."""
        return cast(
            "dict[str, Any]", json.loads(Path(self.settings.config.health_file).read_text())
        )

    async def listens(self) -> bool:
        """Whether the worker listens for new jobs."""
        return bool((await self.client.pubsub_numsub(f"{QUEUE}:wake"))[0][1])

    async def dead_letters(self) -> list[DeadLetterEntry]:
        queue = DeadLetterQueue.of_source(cast("RedisClient", self.client), QUEUE)
        return [entry async for entry in queue.scan()]

    async def end(self) -> None:
        self.stop.set()
        await self.task


def settings_of(config: WorkerConfig, *functions: Any, **more: Any) -> ResolvedSettings:
    members = {"config": config, "functions": functions, **more}
    return resolved_settings(type("Settings", (BaseArqWorkerSettings,), members))


@contextlib.asynccontextmanager
async def running(settings: ResolvedSettings) -> AsyncIterator[Running]:
    """Run arq's worker as a service; it drains at the end."""
    outcomes, stop, config = Outcomes(), asyncio.Event(), settings.config
    made: list[ArqJobs] = []
    startup = ArqJobs.startup

    async def noted(self: ArqJobs, worker: Any) -> None:
        made.append(self)
        await startup(self, worker)

    ArqJobs.startup = noted  # type: ignore[method-assign]
    client = connect(config.dsn, config.queue_name)
    task = asyncio.create_task(serve(settings, stop, [outcomes]))
    try:
        await until(lambda: (made and hasattr(made[0], "_wake")) or task.done(), what="a start")
        ArqJobs.startup = startup  # type: ignore[method-assign]
        if task.done():
            await task
        yield Running(settings, client, stop, task, outcomes, made[0])
    finally:
        ArqJobs.startup = startup  # type: ignore[method-assign]
        stop.set()
        await asyncio.gather(task, return_exceptions=True)
        await client.aclose(close_connection_pool=True)
    task.result()
