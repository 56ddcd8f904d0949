"""A rolling change of who runs the jobs, in both directions: two processes share one queue."""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import quick_python
from waiting import until
from workerbase.broker.client import connect
from workerbase.broker.dsn import RedisDsn
from workerbase.broker.enqueue import QueueClient
from workerbase.process import probe
from workerbase.testing import Server

QUEUE = "arq:queue"
BOTH_WAYS = pytest.mark.parametrize(("before", "after"), [("arq", "leased"), ("leased", "arq")])


class Process:
    """A worker process."""

    def __init__(self, server: Server, folder: Path, jobs: str, **settings: object) -> None:
        folder.mkdir(exist_ok=True)
        self.health_file, self.log = folder / "healthy", folder / "log"
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "ROLLING_JOBS": jobs,
            "WORKER_REDIS_DSN": server.dsn,
            "WORKER_HEALTH_FILE": str(self.health_file),
            "WORKER_LEASE_TIMEOUT": "1",
            "WORKER_HEARTBEAT_INTERVAL": "0.25",
            "WORKER_POLL_DELAY": "0.05",
            "WORKER_MAX_JOBS": "5",
            **{f"WORKER_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self._process: quick_python.Popen | None = None

    async def __aenter__(self) -> "Process":
        with self.log.open("ab") as log:
            self._process = quick_python.Popen(
                [sys.executable, str(Path(__file__).with_name("rolling_worker.py"))],
                env=self._environment, stdout=log, stderr=log,
            )  # fmt: skip
        await until(self._is_ready, what=f"a start: {self.log.read_text()}")
        return self

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        return probe.check(str(self.health_file), ready=True) == ""

    async def stop(self, signum: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        assert self._process is not None
        self._process.send_signal(signum)
        return await asyncio.to_thread(self._process.wait, 30)

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            await self.stop(signal.SIGKILL)


@pytest.fixture
async def client(server: Server) -> AsyncIterator[QueueClient]:
    opened = connect(RedisDsn.parse(server.dsn))
    yield opened
    await opened.aclose(close_connection_pool=True)


async def listed(client: QueueClient, name: str) -> list[str]:
    return [item.decode() for item in await client.lrange(name, 0, -1)]


async def send(client: QueueClient, first: int, count: int, *args: Any) -> set[str]:
    ids = {f"j{number}" for number in range(first, first + count)}
    for job_id in sorted(ids):
        assert await client.enqueue_job("work", *args, _job_id=job_id)
    return ids


async def all_done(client: QueueClient, ids: set[str]) -> None:
    async def ended() -> bool:
        return int(await client.zcard(QUEUE)) == 0

    await until(ended, 60)
    done = Counter(item.partition(":")[0] for item in await listed(client, "done"))
    assert done == Counter(ids), "each job once"


@BOTH_WAYS
async def test_every_job_runs_once_while_one_replaces_the_other(
    server: Server, client: QueueClient, tmp_path: Path, before: str, after: str
) -> None:
    sent: set[str] = set()
    async with Process(server, tmp_path / "old", before) as old:
        sent |= await send(client, 0, 60, 0.05)
        sent |= await send(client, 60, 5, 1.5)  # longer than a lease
        async with Process(server, tmp_path / "new", after) as new:
            sent |= await send(client, 100, 60, 0.05)
            sent |= await send(client, 160, 5, 1.5)
            assert await old.stop() == 0
            sent |= await send(client, 200, 30, 0.05)
            await all_done(client, sent)
            assert await new.stop() == 0
    begun = Counter(await listed(client, "begun"))
    assert set(begun.values()) == {1}
    ran_by = Counter(item.partition(":")[2] for item in await listed(client, "done"))
    assert ran_by["arq"] > 0
    assert ran_by["leased"] > 0


@BOTH_WAYS
async def test_attempts_and_history_pass_from_one_to_the_other(
    server: Server, client: QueueClient, tmp_path: Path, before: str, after: str
) -> None:
    async with Process(server, tmp_path / "old", before) as old:
        await client.enqueue_job("work", 0.5, 9, _job_id="j1")
        await until(lambda: client.llen("begun"))
        await old.stop()
    assert await listed(client, "begun") == ["j1:1"]
    async with Process(server, tmp_path / "new", after):
        await until(lambda: client.xlen(f"{QUEUE}:dlq"))
    assert await listed(client, "begun") == ["j1:1", "j1:2", "j1:3"]
    ((_, dead),) = await client.xrange(f"{QUEUE}:dlq")
    assert [dead[b"_history"].count(b"failure %d" % number) for number in (1, 2, 3)] == [1, 1, 1]
    assert dead[b"_reason"] == b"retries"


async def test_jobs_of_a_killed_worker_with_leases_run_under_arq(
    server: Server, client: QueueClient, tmp_path: Path
) -> None:
    async with Process(server, tmp_path / "old", "leased") as old:
        await client.enqueue_job("work", 0.5, _job_id="j1")
        await until(lambda: client.llen("begun"))
        await old.stop(signal.SIGKILL)
    async with Process(server, tmp_path / "new", "arq"):
        await until(lambda: client.llen("done"), 10)
    assert await listed(client, "begun") == ["j1:1", "j1:2"]


async def test_jobs_of_a_killed_worker_of_arq_run_under_leases_when_their_key_expires(
    server: Server, client: QueueClient, tmp_path: Path
) -> None:
    async with Process(server, tmp_path / "old", "arq", job_timeout=5) as old:
        await client.enqueue_job("work", 0.5, _job_id="j1")
        await until(lambda: client.llen("begun"))
        await old.stop(signal.SIGKILL)
    ttl = await client.pttl("arq:in-progress:j1")
    assert 10_000 < ttl <= 20_000, "the timeout and 15 s"
    async with Process(server, tmp_path / "new", "leased"):
        await asyncio.sleep(1)
        assert await listed(client, "done") == []
        await client.pexpire("arq:in-progress:j1", 1)
        await until(lambda: client.llen("done"), 10)
    assert await listed(client, "begun") == ["j1:1", "j1:2"]
