"""Cron jobs are listed with their next and last runs."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from workerbase import Ctx, task
from workerbase.broker import keys
from workerbase.console.inspector.schedule import read_schedule
from workerbase.process.settings import resolved_settings
from workerbase.testing import Server
from workerconfig import Config
from workerkit import client_of, settings_of


@task()
async def clean_up(ctx: Ctx) -> None: ...


@task()
async def report(ctx: Ctx) -> None: ...


async def test_next_and_last_runs_are_those_of_the_workers_zone(
    server: Server, config_for: Callable[..., Config]
) -> None:
    config = config_for(server, timezone="Europe/Berlin")
    crons: Any = [
        clean_up.cron(hour={3, 15}, minute=0),
        report.cron(weekday="mon", hour=0, minute=30),
    ]
    settings = resolved_settings(settings_of(config, clean_up, report, cron_jobs=crons))
    async with client_of(config) as client:
        run = {"at": 1_700_000_000.5, "outcome": "failed", "seconds": 2.5, "id": "job-1"}
        await client.hset(keys.cron_runs("arq:queue"), "cron:clean_up", json.dumps(run))
        await client.set(keys.tick("arq:queue", "cron:report"), 1_600_000_000_000)

        found = {entry.name: entry for entry in await read_schedule(client, settings)}

    cleaned, reported = found["cron:clean_up"], found["cron:report"]
    assert cleaned.schedule == "hour=3,15 minute=0 second=0"
    assert cleaned.last is not None
    assert (cleaned.last.at, cleaned.last.outcome) == (1_700_000_000.5, "failed")
    next_run = datetime.fromtimestamp(cleaned.next_at, ZoneInfo("Europe/Berlin"))
    assert (next_run.hour in (3, 15), next_run.minute) == (True, 0)
    assert cleaned.next_at > datetime.now(UTC).timestamp()
    assert (reported.last, reported.enqueued_at) == (None, 1_600_000_000.0)
    assert crons[0].next_run is None  # the worker's own schedule is left alone


async def test_a_worker_without_cron_jobs_asks_redis_nothing(
    server: Server, config_for: Callable[..., Config]
) -> None:
    config = config_for(server)
    server.kill()
    try:
        async with client_of(config) as client:
            assert await read_schedule(client, resolved_settings(settings_of(config))) == ()
    finally:
        server.start()
