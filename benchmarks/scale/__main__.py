"""How far one Redis carries the stream consumer, and shards: ``python -m benchmarks.scale``.

A machine with few cores cannot run a fleet that fills a Redis, so this is a model. Handlers wait,
as those of an I/O-bound worker do, and many processes fit on few cores. What is measured is what
a message costs the server, by its own account of its CPU; what one core of it could carry is
derived from that and marked as such. So are the points at which the cores of this machine, and
not the server, were the limit.

Two loads bound what happens: live, where events come one by one while slots are free, so that
each is read for itself; and backlog, where workers read and acknowledge many at once.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import psutil
from workerbase.testing.redis_server import Server

from benchmarks.harness import Metrics
from benchmarks.report import Results, describe, progress

from .fleet import LOAD, Fleet

SIZES = (1, 2, 4, 8, 16, 32, 64)
SHARDS = (1, 2, 4)
PER_SHARD = 4
"""Workers of each shard."""
WORKER_MB = 60
"""A worker has about 50: more than fit into memory are not started."""
BUSY, BEHIND = 0.8, 0.95
"""The machine limits if so much of its cores is busy and no more than that of the work done."""
SPARSE_RATE = 100.0
"""Events a second, over all workers."""
LIMITED = " †"

BACKLOG, LIVE, SPARSE = "backlog", "live", f"live, {SPARSE_RATE:g} a second in all"
IDLE, PUBLISH = "idle", "publish"
COLUMNS = {
    "workers": "workers", "rate": "per second", "per_worker": "each worker", "ideal": "of ideal",
    "server_us": "server CPU µs each", "server_cpu": "CPU of a server, cores",
    "worker_us": "worker CPU µs each", "commands": "Redis commands each", "twice": "handled twice",
}  # fmt: skip
IDLE_COLUMNS = {
    "workers": "workers", "command_rate": "commands per second", "server_cpu": "server CPU, cores",
    "worker_cpu": "CPU of all workers, cores", "connections": "connections",
}  # fmt: skip


def measure(results: Results, quick: bool, log: Path, save: Path | None) -> None:
    """Measure all points, from few workers to many."""
    seconds = 1.0 if quick else 4.0

    def add(scenario: str, fleet: Fleet, metrics: Metrics) -> None:
        servers = f", {len(fleet.shards)} servers" if len(fleet.shards) > 1 else ""
        behind = metrics["rate"] < BEHIND * metrics.get("wanted", 0.0)
        limited = LIMITED if behind and metrics["machine"] > BUSY else ""
        name = f"{fleet.load.processes} workers{servers}{limited}"
        results.add(name, scenario, metrics)
        progress(f"{scenario}, {name}: " + ", ".join(f"{k} {v:.4g}" for k, v in metrics.items()))
        if save:
            results.save(save)

    for servers in SHARDS:
        with ExitStack() as stack:
            fleet = Fleet(servers, log, stack)
            results.about["versions"] = fleet.shards[0].versions
            if servers == 1:
                add(PUBLISH, fleet, asyncio.run(fleet.publishing(3000)))
                fleet.shards[0].server.flush()
            for size in SIZES if servers == 1 else (servers * PER_SHARD,):
                if size * WORKER_MB * 1e6 > psutil.virtual_memory().available:
                    progress(f"{size} workers do not fit into memory")
                    break
                fleet.grow(size)
                add(LIVE, fleet, asyncio.run(fleet.live(seconds)))
                if servers == 1:
                    add(SPARSE, fleet, asyncio.run(fleet.live(seconds, SPARSE_RATE)))
                add(BACKLOG, fleet, asyncio.run(fleet.backlog(seconds)))
            if servers == 1:
                add(IDLE, fleet, asyncio.run(fleet.idle(2 * seconds)))


def render(results: Results) -> list[str]:
    """Show the tables and what follows from them."""
    lines = results.header()
    can = (
        f"Handlers wait {LOAD.seconds * 1000:g} ms, {LOAD.concurrency} at a time: a worker can do "
        f"{LOAD.ideal:g} messages a second. {LIMITED.strip()} means that this machine's cores were "
        "busy and the rate is their limit, not the server's."
    )
    lines += [can, ""]
    for scenario in (LIVE, SPARSE, BACKLOG):
        lines += results.table(scenario, COLUMNS)
    lines += results.table(IDLE, IDLE_COLUMNS)
    return lines + _ceiling(results)


def _ceiling(results: Results) -> list[str]:
    """Derive what one core of a server carries from what a message costs it."""
    publish = results.median("0 workers", PUBLISH, "server_us")
    live, backlog = (_cost(results, scenario) for scenario in (LIVE, BACKLOG))
    if publish is None or live is None or backlog is None:
        return []
    costs = [live, backlog + publish]
    rates = [1e6 / cost for cost in costs]
    rows = [
        ("measured: server CPU µs each, publishing one by one included", costs),
        ("derived: messages a second when the server's core is full", rates),
    ]
    for count in SHARDS:
        what = f"derived: workers that handle {LOAD.ideal:g} a second each, servers: {count}"
        rows.append((what, [count * rate / LOAD.ideal for rate in rates]))
    return [
        f"Publishing one event: {publish:.1f} µs of the server's CPU.",
        "",
        f"| one core for each server | {LIVE} | {BACKLOG} |",
        "|---|---|---|",
        *(f"| {what} | {values[0]:,.0f} | {values[1]:,.0f} |" for what, values in rows),
        "",
    ]


def _cost(results: Results, scenario: str) -> float | None:
    """Return what a message cost the one server that had the most to do, not the machine."""
    names = [f"{size} workers" for size in SIZES]
    costs = [results.median(name, scenario, "server_us") for name in names]
    known = [cost for cost in costs if cost is not None]
    return known[-1] if known else None


def main() -> None:
    """Measure what the command line asks for and print the tables."""
    parser = argparse.ArgumentParser(description="Scale")
    parser.add_argument("--quick", action="store_true", help="a quarter of the time for each point")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--log", type=Path, help="write what the workers print to this file")
    parser.add_argument("--render", type=Path, help="measure nothing, show such a file")
    given = parser.parse_args()
    if given.render:
        print("\n".join(render(Results.load(given.render))))
        return
    # Ended from outside, it still ends its workers and its servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory() as folder:
        with Server() as server:
            results = Results("Scale", describe(server.version, {}, 1))
        measure(results, given.quick, given.log or Path(folder) / "log", given.json)
    print("\n".join(render(results)))


if __name__ == "__main__":
    main()
