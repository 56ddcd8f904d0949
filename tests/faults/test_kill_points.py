"""A worker that dies, or loses an answer, at any point of any way: nothing is lost or doubled.

All points are `nox -s kill_points`; otherwise every `EVERY`-th is a sample.
"""

import contextlib
import multiprocessing
import os
import sys
import time
from functools import partial
from multiprocessing.forkserver import ensure_running
from multiprocessing.process import BaseProcess
from pathlib import Path as FilePath
from typing import Any

import pytest
import redis as sync
from faulty_worker import KILLED, MODES, WAIT_S, Point, Run, main
from paths import PATHS, Path, is_settled
from workerbase.testing.redis_server import Server
from workerconfig import Config

ALL = bool(os.environ.get("ALL_KILL_POINTS"))
EVERY = 9

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["faulty_worker", "paths"])


@pytest.fixture(scope="module", autouse=True)
def _preloaded() -> None:
    """Start the process that workers are forked from: Python 3.11 does not give it our path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        ensure_running()


class Bench:
    """Runs workers, one after the other, on an empty Redis."""

    def __init__(self, server: Server, folder: FilePath, path: Path) -> None:
        self.path = path
        self.redis = sync.Redis(port=server.port)
        self.settings: dict[str, Any] = {
            "redis_dsn": server.dsn,
            "health_file": str(folder / "healthy"),
            "lease_timeout": 0.6,
            "retry_backoff": 0.01,
            "retry_backoff_max": 0.02,
            # One of them may be lost with its worker.
            "max_retries": 3,
            "poll_delay": 0.2,
            "drain_timeout": 1,
            "concurrency": 2,
        }

    def prepare(self) -> None:
        self.redis.flushall()
        self.cron_second = int(time.time() - 10) % 60 if self.path.cron else -1
        self.path.prepare(Config.model_validate(self.settings))

    def run(self, point: Point | None = None) -> tuple[int, bool, list[str]]:
        """Run one worker; return its exit code, whether all was settled, and what it sent."""
        run = Run(self.settings, self.cron_second, self.path.replay, point)
        receiver, sender = _FORKS.Pipe(duplex=False)
        settled = partial(is_settled, self.path.name)
        process: BaseProcess = _FORKS.Process(target=main, args=(run, settled, sender))
        process.start()
        sender.close()
        ended: bool = False
        sent: list[str] = []
        with contextlib.suppress(EOFError):
            if receiver.poll(WAIT_S + 10):
                ended, sent = receiver.recv()
        process.join(10)
        return process.exitcode or 0, ended, sent


def points_of(sent: list[str]) -> list[Point]:
    """Return the points of a run, in its order."""
    return [Point(name, sent[: n + 1].count(name)) for n, name in enumerate(sent)]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_a_fault_at_any_point_loses_and_doubles_nothing(
    path: Path, server: Server, tmp_path: FilePath
) -> None:
    bench = Bench(server, tmp_path, path)
    bench.prepare()
    _, settled, sent = bench.run()
    assert settled, (sent, path.problems(bench.redis))
    found = points_of(sent)
    once = [point for point in found if point.name != "claim"]
    assert len(once) >= path.min_points, f"points have disappeared: {sent}"

    points = [Point(p.name, p.number, mode) for p in found for mode in MODES]
    offset = PATHS.index(path) % EVERY
    failures: list[str] = []
    for point in points if ALL else points[offset::EVERY]:
        bench.prepare()
        code, settled, _ = bench.run(point)
        if code == KILLED:
            _, settled, _ = bench.run()
        if not settled:
            failures.append(f"{point}: {path.problems(bench.redis) or 'not settled'}")
    assert not failures, "\n".join(failures)
