"""Clocks of hosts that are an hour off: what is due, leased or ticks follows the clock of Redis."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from arq.jobs import Job
from jobkit import BASE, QUEUE, client_of, clock, processes, ran, until, working
from workerbase.testing.redis_server import Server
from workerbase.types import Ctx
from workerconfig import Config

ConfigFor = Callable[..., Config]

HOUR = 3600
SKEWS = [HOUR, -HOUR]

ENQUEUE = """
import sys
from datetime import datetime
from workerbase.delivery.arq import ArqAdapter
jobs = ArqAdapter()
jobs.enqueue_sync("job", "now")
jobs.enqueue_sync("job", "in 1 s", _defer_by=1)
jobs.enqueue_sync("job", "at", _defer_until=datetime.fromisoformat(sys.argv[1]))
jobs.enqueue_sync("job", "in 10 minutes", _defer_by=600, _job_id="later")
jobs.enqueue_sync("job", "long ago", _defer_until=datetime.fromisoformat("2020-01-01T00:00+00:00"))
"""


@pytest.mark.parametrize("skew", SKEWS)
async def test_what_a_client_enqueues_is_due_by_the_clock_of_redis(
    server: Server, config_for: ConfigFor, skew: float
) -> None:
    began: dict[str, float] = {}

    async def job(ctx: Ctx, name: str) -> None:
        began[name] = time.time()

    config = config_for(server, poll_delay=0.5)
    environment = os.environ | {"PYTHONPATH": str(BASE), "WORKER_REDIS_DSN": server.dsn}
    at = datetime.now(UTC) + timedelta(seconds=4)
    async with client_of(config) as client, working(config, job):
        enqueued = time.time()
        await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", ENQUEUE, at.isoformat()],
            env=environment | clock(skew),
            check=True,
        )
        await until(lambda: len(began) == 4, 10)
        assert set(began) == {"now", "in 1 s", "at", "long ago"}
        assert began["in 1 s"] >= enqueued + 1
        assert began["at"] == pytest.approx(at.timestamp(), abs=1.5)
        ttl_s = await client.pttl("arq:job:later") / 1000
        assert ttl_s == pytest.approx(600 + 86_400, abs=60)


@pytest.mark.parametrize("skew", SKEWS)
async def test_a_worker_with_a_wrong_clock_runs_what_is_due_and_nothing_else(
    server: Server, config_for: ConfigFor, tmp_path: Path, skew: float
) -> None:
    config = config_for(server, lease_timeout=2.0)
    async with client_of(config) as client:
        await client.enqueue_job("quick", "early", _defer_by=600)
        await client.enqueue_job("quick", "in 1 s", _defer_by=1)
        await client.enqueue_job("quick", "now")
        with processes(config, tmp_path) as start:
            start(skew=skew)
            await until(lambda: _ran(client, 2), 10)
            assert sorted(await ran(client)) == ["did in 1 s", "did now"]


async def _ran(client: object, count: int) -> bool:
    return len(await ran(client)) >= count  # type: ignore[arg-type]


@pytest.mark.parametrize("skew", SKEWS)
async def test_the_jobs_of_a_dead_worker_with_a_wrong_clock_run_again_within_one_lease(
    server: Server, config_for: ConfigFor, tmp_path: Path, skew: float
) -> None:
    config = config_for(server, lease_timeout=2.0)
    began: list[object] = []

    async def slow(ctx: Ctx, name: str, seconds: float) -> None:
        began.append(ctx["job_try"])

    async with client_of(config) as client:
        with processes(config, tmp_path) as start:
            doomed = start(skew=skew)
            await client.enqueue_job("slow", "job", 60.0, _job_id="job")
            await until(lambda: _ran(client, 1))
            await asyncio.sleep(0.5)  # renewed at least once
            assert 0 < await client.zscore(QUEUE, "job") - time.time() * 1000 <= 2_000
            async with working(config, slow):
                doomed.send(signal.SIGKILL)
                await until(lambda: began, 5)
        assert began == [2]
        assert await Job("job", client).status() == "complete"


@pytest.mark.parametrize("skews", [(HOUR, 0), (-HOUR, 0), (-HOUR, HOUR)])
async def test_each_tick_runs_once_among_workers_whose_clocks_differ(
    server: Server,
    config_for: ConfigFor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    skews: tuple[float, float],
) -> None:
    monkeypatch.setenv("TICKS", "every second")
    config = config_for(server, lease_timeout=2.0)
    async with client_of(config) as client:
        with processes(config, tmp_path) as start:
            start(skew=skews[0])
            await until(lambda: _ran(client, 2), 10)
            start(skew=skews[1])
            await until(lambda: _ran(client, 7), 10)
        ticks = Counter(int(job_id.rpartition(":")[2]) // 1000 for job_id in await ran(client))
        assert max(ticks.values()) == 1
        assert sorted(ticks) == [*range(min(ticks), min(ticks) + len(ticks))], "none is left out"
        assert max(ticks) == pytest.approx(time.time(), abs=5)
