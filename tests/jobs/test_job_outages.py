"""Stops and outages: nothing is lost, nothing is done twice without need, the exit code is 0."""

import asyncio
import json
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jobkit import QUEUE, Process, client_of, look_ahead, processes, ran, until, working
from servers import free_port
from workerbase.broker.redis_errors import OUTAGE_ERRORS
from workerbase.testing.redis_server import Server, find_server
from workerbase.types import Ctx
from workerconfig import Config

ConfigFor = Callable[..., Config]


async def _said(client: Any, *words: str) -> bool:
    return set(words) <= set(await ran(client))


async def test_a_stop_lets_running_jobs_finish_and_releases_the_rest(
    server: Server, config_for: ConfigFor, tmp_path: Path
) -> None:
    config = config_for(server, max_jobs=2, lease_timeout=15)
    async with client_of(config) as client:
        with processes(config, tmp_path) as start:
            worker = start(drain_timeout=10)
            for name in ("a", "b", "c"):
                await client.enqueue_job("slow", name, 0.5, _job_id=name)
            await until(lambda: _said(client, "began a", "began b"))
            worker.send(signal.SIGTERM)
            assert await worker.exit() == 0
        assert await _said(client, "did a", "did b")
        assert not await _said(client, "began c")
        assert await client.zrange(QUEUE, 0, -1) == [b"c"]
        assert await client.get("arq:retry:c") in (None, b"0")
        assert await client.exists("arq:in-progress:c") == 0
        assert not worker.health_file.exists()


async def test_a_job_that_outlives_the_drain_is_released_at_once_and_uncounted(
    server: Server, config_for: ConfigFor, tmp_path: Path
) -> None:
    config = config_for(server, lease_timeout=60)
    async with client_of(config) as client:
        with processes(config, tmp_path) as start:
            worker = start(drain_timeout=0.2)
            await client.enqueue_job("slow", "a", 60.0, _job_id="a")
            await until(lambda: _said(client, "began a"))
            worker.send(signal.SIGTERM)
            assert await worker.exit() == 0
        assert await client.get("arq:retry:a") == b"0"
        attempts: list[object] = []

        async def slow(ctx: Ctx, name: str, seconds: float) -> None:
            attempts.append(ctx["job_try"])

        async with working(config, slow):
            await until(lambda: attempts, 5)  # although the lease is a minute long
        assert attempts == [1]


async def test_a_job_that_ignores_its_cancellation_does_not_hang_the_exit(
    server: Server, config_for: ConfigFor, tmp_path: Path
) -> None:
    config = config_for(server, lease_timeout=2)
    async with client_of(config) as client:
        with processes(config, tmp_path) as start:
            worker = start(drain_timeout=0.1)
            await client.enqueue_job("stubborn", _job_id="stubborn")
            await until(lambda: _said(client, "began stubborn"))
            worker.send(signal.SIGTERM)
            assert await worker.exit(30) == 0
            assert "ignored cancellation" in worker.said()
            assert not worker.health_file.exists()
        assert await client.zrange(QUEUE, 0, -1) == [b"stubborn"]  # its lease ends


def _ready(worker: Process) -> bool | None:
    """What the health file reports of Redis; None where there is no file yet."""
    try:
        return bool(json.loads(worker.health_file.read_text())["redis"])
    except OSError:
        return None


@pytest.mark.parametrize("outage", ["killed", "frozen"])
async def test_an_outage_of_redis_only_delays(
    own_server: Server, config_for: ConfigFor, tmp_path: Path, outage: str
) -> None:
    config = config_for(own_server, lease_timeout=10, max_jobs=10, poll_delay=0.5)
    with processes(config, tmp_path) as start:
        worker = start()
        async with client_of(config) as client:
            for number in range(10):
                await client.enqueue_job("slow", str(number), 1.0, _job_id=f"slow-{number}")
            for number in range(100):
                await client.enqueue_job("quick", str(number), _job_id=f"quick-{number}")
            await until(lambda: _said(client, "began 0"))
            await until(lambda: _ready(worker))
        if outage == "killed":
            own_server.kill()
        else:
            own_server.freeze()
        if outage == "killed":  # a frozen server is noticed when the socket times out
            await until(lambda: _ready(worker) is False)
        await asyncio.sleep(2.0)
        assert worker.code is None
        assert worker.health_file.exists()
        if outage == "killed":
            own_server.start()
        else:
            own_server.thaw()
        async with client_of(config) as client:
            await client.enqueue_job("quick", "after")
            await until(lambda: _said(client, "did after"), 2.5)
            await until(lambda: _ready(worker))

            async def empty() -> bool:
                return await client.zcard(QUEUE) == 0

            await until(empty)
            done = Counter(await ran(client))
            assert {f"did {number}" for number in range(100)} <= done.keys()
            assert await client.exists("arq:queue:dlq") == 0
            results = await client.keys("arq:result:*")
            assert len(results) == 111
        worker.send(signal.SIGTERM)
        assert await worker.exit() == 0


async def test_a_stop_during_an_outage_ends_in_time_although_jobs_wait_to_be_released(
    own_server: Server, config_for: ConfigFor
) -> None:
    go = asyncio.Event()

    async def hold(ctx: Ctx) -> None:
        await go.wait()

    config = config_for(own_server, max_jobs=1, poll_delay=600, lease_timeout=600)
    async with client_of(config) as client:
        await client.enqueue_job("hold")
        async with working(config, hold, drain=0.1) as worker:
            await until(lambda: worker.executor.running)
            for _ in range(50):
                await client.enqueue_job("hold")
            look_ahead(worker)
            await until(lambda: len(worker.prefetched) == 50)
            own_server.kill()
        own_server.start()
        async with client_of(config) as again:
            assert await again.zcard(QUEUE) == 51


# --- Sentinel


class Sentinels:
    """A primary, a replica and a Sentinel that promotes it."""

    def __init__(self, folder: Path) -> None:
        self.primary = Server(persistent=False, options=("--repl-diskless-sync-delay", "0"))
        self.primary.start()
        self.replica = Server(options=("--replicaof", f"127.0.0.1 {self.primary.port}"))
        self.replica.start()
        self.port = free_port()
        conf = folder / "sentinel.conf"
        conf.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor mymaster 127.0.0.1 {self.primary.port} 1\n"
            "sentinel down-after-milliseconds mymaster 500\n"
            "sentinel failover-timeout mymaster 2000\n"
        )
        self._process = subprocess.Popen(
            [find_server().path, str(conf), "--sentinel"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @property
    def dsn(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.port}/0?master=mymaster"

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self.replica.close()
        self.primary.close()


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    running = Sentinels(tmp_path)
    yield running
    running.close()


async def test_a_failover_by_sentinel_only_delays(
    sentinels: Sentinels, config_for: ConfigFor
) -> None:
    ran_: Counter[int] = Counter()

    async def job(ctx: Ctx, number: int) -> None:
        ran_[number] += 1

    config = config_for(sentinels.primary, redis_dsn=sentinels.dsn, poll_delay=0.5)
    direct = config_for(sentinels.replica)
    async with client_of(direct) as replica:

        async def replicates() -> bool:
            found = await replica.info("replication")
            return found["master_link_status"] == "up"

        await until(replicates, 30)

        async def master_known() -> bool:
            with socket.create_connection(("127.0.0.1", sentinels.port), 1) as talk:
                talk.sendall(b"SENTINEL REPLICAS mymaster\r\n")
                return str(sentinels.replica.port).encode() in talk.recv(4096)

        await until(master_known, 30)
        async with client_of(config) as client, working(config, job) as worker:
            await client.enqueue_job("job", 1)
            await until(lambda: ran_[1])
            await until(lambda: not worker.intake.tasks)
            sentinels.primary.kill()

            async def enqueued() -> bool:
                try:
                    await client.enqueue_job("job", 2, _job_id="second")
                except OUTAGE_ERRORS:
                    return False
                return True

            await until(enqueued, 30)
            await until(lambda: ran_[2], 5)
            await until(lambda: worker.intake.worker.availability.up)
