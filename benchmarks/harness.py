"""Starts a server and the systems under test, and measures them from outside.

Each system lives in a virtualenv of its own (uv makes it from the script header of its module)
and runs as it would in production, as processes that know nothing of the harness. Times come
from the records of the handlers (`systems.work`), CPU and memory from the operating system,
commands from Redis. Nothing is asserted: bars are printed as met or not.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import redis
from workerbase.testing.redis_server import Server

ROOT = Path(__file__).parent.parent
BASE = Path("template", "src", "{{package_name}}")
SYSTEMS = Path(__file__).parent / "systems"

POLL_S = 0.005
SETTLE_S = 0.1
"""After the last handler, for its acknowledgement or result."""
IDLE_INTERVAL_S = 0.02
MOST_MESSAGES = 60_000
FIELDS = 3
"""Numbers in a record: sent, begun, ended."""

Metrics = dict[str, float]


@dataclass(frozen=True)
class System:
    """A system under test.

    Args:
        name: as the tables show it.
        module: its adapter, in `systems`.
        about: messages that one worker handles in a second, to choose how many to send.
        max_concurrency: the highest concurrency at which it makes sense to run it.
        peer: whether it is a product to compare with.
        env: variables that the adapter reads.
        root: the checkout of this repository that it runs from.
    """

    name: str
    module: str
    about: float = 1000
    max_concurrency: int = 100
    peer: bool = True
    env: dict[str, str] = field(default_factory=dict)
    root: Path = ROOT


@dataclass(frozen=True)
class Load:
    """What the workers do."""

    concurrency: int = 20
    seconds: float = 0.0
    processes: int = 1

    @property
    def ideal(self) -> float:
        """Messages per second if nothing but the handlers took time."""
        return self.processes * self.concurrency / self.seconds if self.seconds else float("inf")

    def __str__(self) -> str:
        """Describe it for a table."""
        kind = f"{self.seconds * 1000:g} ms" if self.seconds else "no-op"
        several = f", {self.processes} processes" if self.processes > 1 else ""
        return f"{kind}, concurrency {self.concurrency}{several}"


class Records:
    """What the handlers of one run recorded."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[Path, int] = {}

    def count(self) -> int:
        """Count the messages handled so far."""
        for path in self._folder.iterdir():
            seen = self._seen.get(path, 0)
            while ended := _read(path, seen, 4096)[2::FIELDS]:
                # Threads may finish a later record before an earlier one.
                done = ended.index(0) if 0 in ended else len(ended)
                seen += done
                if done < len(ended):
                    break
            self._seen[path] = seen
        return sum(self._seen.values())

    def _all(self) -> "Iterator[array[int]]":
        # Read anew: a record that was counted while it was written may have been read in part.
        return (_read(path, 0, seen) for path, seen in self._seen.items() if seen)

    def rate(self) -> float:
        """Messages per second, from the begin of the first handler to the end of the last."""
        begun = min(min(values[1::FIELDS]) for values in self._all())
        ended = max(max(values[2::FIELDS]) for values in self._all())
        return self.count() / ((ended - begun) / 1e9)

    def latencies(self, skip: int = 0) -> list[float]:
        """Milliseconds from before sending to the begin of the handler, in order of sending."""
        pairs = [
            (sent, begun - sent)
            for values in self._all()
            for sent, begun in zip(values[0::FIELDS], values[1::FIELDS], strict=True)
        ]
        return [late / 1e6 for _, late in sorted(pairs)[skip:]]


def _read(path: Path, first: int, count: int) -> "array[int]":
    with path.open("rb") as file:
        file.seek(first * FIELDS * 8)
        return array("q", file.read(count * FIELDS * 8))


@dataclass(frozen=True)
class Usage:
    """CPU seconds and bytes of a tree of processes."""

    cpu: float
    rss: float

    @classmethod
    def of(cls, workers: list[subprocess.Popen[bytes]]) -> "Usage":
        """Measure now."""
        cpu = rss = 0.0
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                top = psutil.Process(worker.pid)
                for process in (top, *top.children(recursive=True)):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        times = process.cpu_times()
                        cpu += times.user + times.system
                        # Of children that ended and were waited for: RQ makes one for each job.
                        cpu += times.children_user + times.children_system
                        rss += process.memory_info().rss
        return cls(cpu, rss)


class Bench:
    """One server, and the virtualenvs of the systems."""

    def __init__(self, server: Server, log: Path) -> None:
        self.server = server
        self.versions: dict[str, str] = {}
        self._redis: Any = redis.Redis(port=server.port)
        self._log = log.open("ab")
        self._pythons: dict[str, str] = {}
        self._shm = "/dev/shm" if Path("/dev/shm").is_dir() else None

    # --- environments and processes

    def install(self, system: System) -> None:
        """Make the virtualenv of ``system`` and note the versions in it."""
        script = str(SYSTEMS / f"{system.module}.py")
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "--quiet", "sync", "--script", script], check=True)
        find = [*uv, "python", "find", "--script", script]
        python = subprocess.check_output(find, text=True).strip()
        self._pythons[system.module] = python
        listing = [*uv, "pip", "list", "--python", python, "--format", "json"]
        for package in json.loads(subprocess.check_output(listing)):
            wanted = package["name"] in Path(script).read_text().partition('"""')[0]
            if wanted and package["name"] not in ("redis", "typing_extensions"):
                self.versions[package["name"]] = package["version"]

    def _command(self, system: System, *verb: str) -> list[str]:
        python = self._pythons[system.module]
        return [python, "-m", "benchmarks.systems.drive", system.module, *verb]

    def _env(self, system: System, load: Load, records: str) -> dict[str, str]:
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith(("WORKER_", "VIRTUAL_ENV"))},
            **system.env,
            "BENCH_REDIS": self.server.dsn,
            "BENCH_CONCURRENCY": str(load.concurrency),
            "BENCH_SECONDS": str(load.seconds),
            "BENCH_RECORDS": records,
            "PYTHONPATH": os.pathsep.join((str(system.root), str(system.root / BASE))),
            "PYTHONDONTWRITEBYTECODE": "",
        }

    def _drive(self, system: System, *verb: str) -> float:
        """Carry out a verb of the driver; return the seconds that it prints, if any."""
        done = subprocess.run(
            self._command(system, *verb), env=self._env(system, Load(), "/nonexistent"),
            cwd=system.root, check=True, stdout=subprocess.PIPE, stderr=self._log,
        )  # fmt: skip
        return float(done.stdout.split()[-1]) if done.stdout.strip() else 0.0

    @contextlib.contextmanager
    def _workers(
        self, system: System, load: Load
    ) -> Iterator[tuple[list[subprocess.Popen[bytes]], Records]]:
        workers: list[subprocess.Popen[bytes]] = []
        with tempfile.TemporaryDirectory(prefix="bench-", dir=self._shm) as folder:
            recorded = Path(folder) / "records"
            recorded.mkdir()
            env = self._env(system, load, str(recorded))
            try:
                for number in range(load.processes):
                    env["WORKER_HEALTH_FILE"] = f"{folder}/healthy-{number}"
                    workers.append(
                        subprocess.Popen(
                            self._command(system, "work"), env=env, cwd=system.root,
                            stdout=self._log, stderr=self._log, start_new_session=True,
                        )
                    )  # fmt: skip
                yield workers, Records(recorded)
            finally:
                for worker in workers:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(worker.pid, signal.SIGKILL)
                    worker.wait()

    def _wait(
        self, workers: list[subprocess.Popen[bytes]], records: Records, count: int, seconds: float
    ) -> bool:
        """Wait until ``count`` messages are handled; false if it takes too long or one dies."""
        deadline = time.monotonic() + seconds
        while records.count() < count:
            if time.monotonic() > deadline or any(worker.poll() is not None for worker in workers):
                return False
            time.sleep(POLL_S)
        return True

    def _commands(self) -> tuple[float, float]:
        """Return the commands that Redis has run, ours aside, and the reads of its sockets."""
        stats = self._redis.info("commandstats")
        calls = sum(v["calls"] for k, v in stats.items() if k != "cmdstat_info")
        return float(calls), float(self._redis.info("stats")["total_reads_processed"])

    # --- measurements

    def drain(self, system: System, load: Load, count: int, deadline: float = 60.0) -> Metrics:
        """Let workers work off a queue that was filled before they started."""
        self.server.flush()
        self._drive(system, "fill", str(count))
        before = self._commands()
        with self._workers(system, load) as (workers, records):
            if not self._wait(workers, records, 1, 30):
                return {"missing": float(count)}
            handled, usage = records.count(), Usage.of(workers)
            self._wait(workers, records, count, deadline)
            total, end = records.count(), Usage.of(workers)
            time.sleep(SETTLE_S)
            after = self._commands()
            metrics = {
                "rate": records.rate(),
                "cpu_us": (end.cpu - usage.cpu) / max(1, total - handled) * 1e6,
                "commands": (after[0] - before[0]) / total,
                "reads": (after[1] - before[1]) / total,
                "rss_mb": end.rss / 1e6,
                "missing": float(max(0, count - total)),
                "twice": float(max(0, records.count() - count)),
            }
            if load.seconds:
                metrics["ideal"] = metrics["rate"] / load.ideal
            return metrics

    def enqueue(self, system: System, count: int) -> Metrics:
        """Let one client enqueue one message after the other."""
        self.server.flush()
        return {"rate": count / self._drive(system, "send", str(count))}

    def latency(self, system: System, load: Load, rate: float | None, count: int) -> Metrics:
        """Send to a running worker, ``rate`` messages a second or one each 20 ms.

        At 20 ms, also measure what the worker costs while it has nothing to do.
        """
        self.server.flush()
        interval = 1 / rate if rate else IDLE_INTERVAL_S
        warm_up = 10
        with self._workers(system, load) as (workers, records):
            # Until it works, which may be later than it runs: arq, for one, polls.
            self._drive(system, "trickle", str(warm_up), "0.02")
            if not self._wait(workers, records, warm_up, 30):
                return {"missing": float(count)}
            spent = self._drive(system, "trickle", str(count), str(interval))
            arrived = self._wait(workers, records, warm_up + count, 30)
            late = records.latencies(skip=warm_up)
            metrics = {
                "rate": count / spent,
                "p50": percentile(late, 50),
                "p95": percentile(late, 95),
                "p99": percentile(late, 99),
                "missing": 0.0 if arrived else float(warm_up + count - records.count()),
            }
            if rate is None:
                time.sleep(0.5)
                seconds = 3.0
                before, usage = self._commands(), Usage.of(workers)
                time.sleep(seconds)
                after, end = self._commands(), Usage.of(workers)
                metrics["idle_commands"] = (after[0] - before[0]) / seconds
                metrics["idle_cpu"] = (end.cpu - usage.cpu) / seconds
                metrics["rss_mb"] = end.rss / 1e6
            return metrics

    def backlog(self, system: System, load: Load, size: int, at_least: int) -> Metrics:
        """Work off a backlog of ``size``, as often as it takes to see ``at_least`` messages.

        The worker is stopped while the backlog is laid, so that its start costs nothing here.
        """
        self.server.flush()
        self._drive(system, "fill", "10")
        rounds = max(1, at_least // size)
        cpu = 0.0
        with self._workers(system, load) as (workers, records):
            self._wait(workers, records, 10, 30)
            for number in range(1, rounds + 1):
                _signal(workers, signal.SIGSTOP)
                self._drive(system, "fill", str(size))
                usage = Usage.of(workers)
                _signal(workers, signal.SIGCONT)
                arrived = self._wait(workers, records, 10 + number * size, 120)
                cpu += Usage.of(workers).cpu - usage.cpu
                if not arrived:
                    return {"missing": float(10 + number * size - records.count())}
            return {"cpu_us": cpu / (rounds * size) * 1e6, "rss_mb": Usage.of(workers).rss / 1e6}


def _signal(workers: list[subprocess.Popen[bytes]], signum: signal.Signals) -> None:
    for worker in workers:
        os.killpg(worker.pid, signum)


def percentile(values: list[float], percent: float) -> float:
    """Return the value below which ``percent`` of ``values`` lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
