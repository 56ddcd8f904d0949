"""Work that tries to end its worker, in processes that a supervisor restarts."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import quick_python
import redis as sync_redis
from workerbase.broker.client import connect
from workerbase.testing.redis_server import Server
from workerconfig import Config

WORKER = Path(__file__).with_name("poison_worker.py")
PATIENCE_S = 60
MAX_DEATHS = 5

LEAVES_THE_LOOP = ("exit in a child task", "interrupt in a child task", "stop the loop")
"""What reaches the event loop before anybody can catch it: the worker ends each time."""
FAILS = ("exit", "interrupt", "cancel itself", "raise what has no text")
INNOCENTS = tuple(f"innocent {number}" for number in range(5))
IS_HANDLED = ("cancel itself and return", "be cancelled when it has returned")


class Supervised:
    """A worker that is started again whenever it ends."""

    def __init__(self, server: Server, folder: Path, jobs: str, **settings: object) -> None:
        quick = {
            "redis_dsn": server.dsn,
            "health_file": folder / "healthy",
            "lease_timeout": 1,
            "drain_timeout": 1,
            "retry_backoff": 0.05,
            "retry_backoff_max": 0.1,
            "max_retries": 3,
            "poll_delay": 0.1,
            "job_timeout": 5,
        }
        self.log = folder / "log"
        self.deaths = 0
        self._jobs = jobs
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            **{f"WORKER_{name.upper()}": str(value) for name, value in (quick | settings).items()},
        }
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return quick_python.Popen(
                [sys.executable, WORKER, self._jobs],
                env=self._environment, stdout=log, stderr=log,
            )  # fmt: skip

    def run_until(self, condition: Callable[[], object]) -> None:
        """Keep it running until ``condition`` holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if self._process.poll() is not None:
                self.deaths += 1
                said = self.log.read_text()
                assert self.deaths <= MAX_DEATHS, f"an endless crash loop:\n{said[-5000:]}"
                self._process = self._start()
            assert time.monotonic() < deadline, self.log.read_text()[-5000:]
            time.sleep(0.05)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        if self.alive:
            self._process.kill()
        self._process.wait()


@pytest.fixture
def redis(server: Server) -> Iterator[Any]:
    with sync_redis.Redis(port=server.port, decode_responses=True) as client:
        yield client


@pytest.fixture
def supervised(server: Server, tmp_path: Path) -> Iterator[Callable[[str], Supervised]]:
    started: list[Supervised] = []

    def start(jobs: str) -> Supervised:
        started.append(Supervised(server, tmp_path, jobs))
        return started[-1]

    yield start
    for worker in started:
        worker.close()


def publish(redis: Any, name: str, what: str = "nothing") -> None:
    redis.xadd("deeds", {"type": "deed", "data": f'{{"name": "{name}", "what": "{what}"}}'})


def enqueue(server: Server, name: str, what: str = "nothing") -> None:
    async def add() -> None:
        client = connect(Config.model_validate({"redis_dsn": server.dsn}).dsn)
        await client.enqueue_job("deed", name, what, _job_id=name)
        await client.aclose(close_connection_pool=True)

    asyncio.run(add())


def began(redis: Any, name: str) -> int:
    return int(redis.lrange("record", 0, -1).count(f"begin {name}"))


def done(redis: Any, *names: str) -> bool:
    return {f"end {name}" for name in names} <= set(redis.lrange("record", 0, -1))


@pytest.mark.parametrize("what", LEAVES_THE_LOOP)
def test_a_message_that_ends_the_loop_becomes_a_dead_letter(
    redis: Any, supervised: Callable[[str], Supervised], what: str
) -> None:
    publish(redis, "culprit", what)
    for name in INNOCENTS:
        publish(redis, name)
    worker = supervised("leased")

    worker.run_until(lambda: redis.xlen("deeds:dlq"))
    worker.run_until(lambda: done(redis, *INNOCENTS))

    ((_, dead),) = redis.xrange("deeds:dlq")
    assert '"name": "culprit"' in dead["data"]
    # Only what never ends by itself has no outcome of its own.
    assert dead["_reason"] == ("poison" if what == "stop the loop" else "retries")
    assert began(redis, "culprit") == 3
    assert worker.deaths <= 3


@pytest.mark.parametrize("what", LEAVES_THE_LOOP)
def test_a_leased_job_that_ends_the_loop_becomes_a_dead_letter(
    server: Server, redis: Any, supervised: Callable[[str], Supervised], what: str
) -> None:
    worker = supervised("leased")
    enqueue(server, "culprit", what)
    for name in INNOCENTS:
        enqueue(server, name)

    worker.run_until(lambda: redis.xlen("arq:queue:dlq"))
    worker.run_until(lambda: done(redis, *INNOCENTS))

    assert [dead["_id"] for _, dead in redis.xrange("arq:queue:dlq")] == ["culprit"]
    assert began(redis, "culprit") == 3
    assert worker.deaths <= 3


@pytest.mark.parametrize("what", LEAVES_THE_LOOP)
def test_a_job_of_arq_that_ends_the_loop_is_given_up(
    server: Server, redis: Any, supervised: Callable[[str], Supervised], what: str
) -> None:
    """No dead letter is left of a job whose last attempt ended with its worker."""
    worker = supervised("arq")
    enqueue(server, "culprit", what)
    for name in INNOCENTS:
        enqueue(server, name)

    worker.run_until(lambda: done(redis, *INNOCENTS))
    worker.run_until(lambda: redis.zcard("arq:queue") == 0)

    assert began(redis, "culprit") == 3
    assert worker.deaths <= 3


@pytest.mark.parametrize("jobs", ["leased", "arq"])
def test_what_disturbs_its_worker_fails_and_the_worker_goes_on(
    server: Server, redis: Any, supervised: Callable[[str], Supervised], jobs: str
) -> None:
    worker = supervised(jobs)
    for what in FAILS:
        publish(redis, f"message: {what}", what)
        enqueue(server, f"job: {what}", what)

    worker.run_until(lambda: redis.xlen("deeds:dlq") == len(FAILS))
    worker.run_until(lambda: redis.zcard("arq:queue") == 0)

    assert {dead["_reason"] for _, dead in redis.xrange("deeds:dlq")} == {"retries"}
    for what in FAILS:
        assert began(redis, f"message: {what}") == 3
        assert began(redis, f"job: {what}") == 3
    assert worker.deaths == 0


def test_a_message_that_cancels_its_task_too_late_is_handled(
    redis: Any, supervised: Callable[[str], Supervised]
) -> None:
    """Neither the worker nor the next message of the slot notices."""
    for what in IS_HANDLED:
        publish(redis, what, what)
    worker = supervised("leased")
    worker.run_until(lambda: done(redis, *IS_HANDLED))
    worker.run_until(lambda: "left behind cancelled its task" in worker.log.read_text())

    for name in INNOCENTS:
        publish(redis, name)

    worker.run_until(lambda: done(redis, *INNOCENTS))
    assert all(began(redis, name) == 1 for name in (*IS_HANDLED, *INNOCENTS))
    assert worker.deaths == 0
