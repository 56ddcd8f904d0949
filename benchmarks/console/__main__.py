"""What the console costs: ``nox -s bench -- console``.

How many commands Redis runs for it with 0, 1 and 20 browsers that follow the overview, how much
memory its process has then, how long a page takes, and what the history costs a worker.
"""

import argparse
import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import urlopen

import psutil
import redis
from workerbase.testing.redis_server import Server

from benchmarks.harness import Bench, Load, System

BROWSERS = (0, 1, 20)
PATIENCE_S = 30.0
OURS = System("streams", "ours_streams", peer=False)
MESSAGES = 60_000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each number of browsers")
    parser.add_argument("--repetitions", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with Server() as server, _process(server, folder, "run"):
            _pages(server, folder, given.repetitions)
            _followers(server, folder, given.seconds)
        with Server() as server:
            _history(server, Path(folder), given.repetitions)


def _history(server: Server, folder: Path, repetitions: int) -> None:
    """Drain with and without the history, in turn."""
    bench = Bench(server, folder / "log")
    bench.install(OURS)
    both = (OURS, replace(OURS, name="history", env={"BENCH_HISTORY": "1"}))
    for load in (Load(20), Load(100)):
        ratios = []
        for number in range(repetitions):
            order = both if number % 2 else both[::-1]
            rates = {one.name: bench.drain(one, load, MESSAGES)["rate"] for one in order}
            ratios.append(rates["history"] / rates["streams"])
        print(f"with the history, {load}: {_shown(ratios)} × without it", flush=True)


def _pages(server: Server, folder: str, repetitions: int) -> None:
    """Time the first page of a console that has just started, and further ones."""
    first, later = [], []
    for _ in range(repetitions):
        with _console(server, folder) as (address, _):
            first.append(_time_of(address))
            later += [_time_of(address) for _ in range(5)]
    print(f"first page of a console, ms: {_shown(first)}; further ones: {_shown(later)}")


def _time_of(address: str) -> float:
    began = time.perf_counter()
    with urlopen(address) as answer:
        answer.read()
    return (time.perf_counter() - began) * 1000


def _followers(server: Server, folder: str, seconds: float) -> None:
    """Count commands and memory while browsers follow; those of the worker alone are taken off."""
    alone = _commands(server, seconds)
    for count in BROWSERS:
        with _console(server, folder) as (address, process):
            _time_of(address)
            commands, received = asyncio.run(_follow(server, address, count, seconds))
            memory = psutil.Process(process.pid).memory_info().rss / 1e6
        print(
            f"browsers: {count}; commands a second: {commands - alone:.1f} "
            f"(and {alone:.1f} of an idle worker); memory of the console: {memory:.0f} MB; "
            f"updates that each received a second: {received:.2f}",
            flush=True,
        )


async def _follow(server: Server, address: str, count: int, seconds: float) -> tuple[float, float]:
    """Follow the overview with ``count`` browsers; return commands and updates a second."""
    updates = 0

    async def browser() -> None:
        nonlocal updates
        port = int(address.rstrip("/").rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /live?page= HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        async for line in reader:
            updates += line.startswith(b"event: part")

    tasks = [asyncio.create_task(browser()) for _ in range(count)]
    try:
        await asyncio.sleep(2)
        before = updates
        commands = await asyncio.to_thread(_commands, server, seconds)
        return commands, (updates - before) / seconds / max(1, count)
    finally:
        for task in tasks:
            task.cancel()


def _commands(server: Server, seconds: float) -> float:
    """Return how many commands Redis runs in a second."""
    client: Any = redis.Redis(port=server.port)

    def total() -> int:
        stats = client.info("commandstats")
        return sum(int(one["calls"]) for name, one in stats.items() if name != "cmdstat_info")

    before = total()
    time.sleep(seconds)
    return (total() - before) / seconds


@contextmanager
def _console(server: Server, folder: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start a console; yield its address and process."""
    with _process(server, folder, "console", "--port", "0") as (process, log):
        began = time.monotonic()
        while not (said := re.search(r"console at (\S+)", log.read_text())):
            if process.poll() is not None or time.monotonic() - began > PATIENCE_S:
                sys.exit(f"the console does not start:\n{log.read_text()}")
            time.sleep(0.01)
        yield said[1], process


@contextmanager
def _process(
    server: Server, folder: str, *arguments: str
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    log = Path(folder) / f"{arguments[0]}-{time.monotonic_ns()}"
    env = {**os.environ, "BENCH_REDIS": server.dsn, "WORKER_HEALTH_FILE": f"{log}-health"}
    command = (sys.executable, "-m", "benchmarks.console.worker", *arguments)
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output)
    try:
        yield process, log
    finally:
        process.terminate()
        process.wait()


def _shown(values: list[float]) -> str:
    return f"{median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


if __name__ == "__main__":
    main()
