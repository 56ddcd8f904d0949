"""users.conf: the worker's user is enough for the console and the commands for jobs."""

from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import pytest
from aclkit import PASSWORDS, PROJECTS, GuardedServer, deployed, rendered
from pydantic import SecretStr
from servers import KINDS, binary
from workerbase import BaseArqWorkerSettings, Ctx, Service, WorkerContext, task
from workerbase.broker.client import connect
from workerbase.console.history import Recorder
from workerbase.console.inspector.find import find
from workerbase.console.inspector.jobs import LISTED, Jobs
from workerbase.console.inspector.schedule import read_schedule
from workerbase.console.pauses import begin, end, read_pauses
from workerbase.console.sampler import Sampler
from workerbase.jobs import LeasedJobs
from workerbase.monitor import Work
from workerbase.process.settings import resolved_settings
from workerbase.streams import Event, EventContext, EventRouter, Streams
from workerbase.types import RedisClient
from workerconfig import Config


class OrderPaid(Event, type="order.paid", stream="orders"):
    order_id: int


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("jobs", PROJECTS)
async def test_the_console_and_the_commands_for_jobs_may_do_their_work(
    tmp_path: Path, kind: str, jobs: str
) -> None:
    features = (*PROJECTS[jobs], "console")
    router = EventRouter()

    @router.on(OrderPaid)
    async def on_order_paid(event: OrderPaid, ctx: EventContext) -> None: ...

    @task()
    async def tidy(ctx: Ctx) -> None: ...

    with GuardedServer(deployed(tmp_path, rendered(features)), binary=binary(kind)) as server:
        services: tuple[Service, ...] = (Streams(router),) if "streams" in features else ()
        services += (LeasedJobs(),) if "leased_jobs" in features else ()
        password = quote(PASSWORDS["worker"], safe="")
        dsn = f"redis://worker:{password}@127.0.0.1:{server.port}/1"
        config = Config(redis_dsn=SecretStr(dsn))
        members: dict[str, Any] = {
            "config": config,
            "functions": [tidy],
            "cron_jobs": [tidy.cron(hour=3)],
            "services": services,
        }
        settings = resolved_settings(type("Settings", (BaseArqWorkerSettings,), members))
        client = connect(config.dsn)
        recorder, work = Recorder(), Work("job", "arq:queue", settings.cron_jobs[0].name, "1", 1)
        async with recorder.lifespan({"redis": client, "worker": WorkerContext(settings=settings)}):
            recorder.on_finished(work, "handled", None, 0.1)
            await recorder.flush(client, settings)
            await client.enqueue_job("tidy", _job_id="later", _defer_by=60)
            await client.enqueue_job("tidy", _job_id="sooner", _defer_by=60)
            sample = await Sampler(lambda: client, settings).current()
            assert [worker.name for worker in sample.workers] == [recorder.name]
            found = Jobs(client, settings)
            assert await found.run_now("later") == "queued"
            assert await found.cancel("sooner") == "cancelled"
            assert await found.retry("sooner") == "queued"
            for state in LISTED:
                await found.list(state)
            assert (await find(client, settings, "later")).sightings
            (entry,) = await read_schedule(client, settings)
            assert entry.last is not None
            redis = cast("RedisClient", client)
            await begin(redis, settings, "task", tidy.name, who="me", seconds=60)
            assert len(await read_pauses(client, "arq:queue")) == 1
            assert await end(redis, "arq:queue", "task", tidy.name)
        await client.aclose(close_connection_pool=True)
