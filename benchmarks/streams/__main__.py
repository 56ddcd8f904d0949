"""The stream consumer against its peers: ``python -m benchmarks.streams``."""

from collections.abc import Sequence

from benchmarks.harness import Load, Metrics, System
from benchmarks.report import Bar, Results, bars
from benchmarks.run import (
    DRAIN_COLUMNS,
    ENQUEUE,
    HALF_LOAD,
    IDEAL_COLUMNS,
    IDLE,
    IDLE_COLUMNS,
    LATENCY_COLUMNS,
    NO_OP,
    Scenario,
    Session,
    drain,
    main,
)

OURS = System("ours", "ours_streams", about=25_000, peer=False)
BARE = System("bare loop", "bare", about=25_000, peer=False)
SYSTEMS = (
    OURS,
    BARE,
    System("FastStream", "faststream"),
    System("taskiq-redis", "taskiq"),
    System("streaq", "streaq", about=500),
    System("docket", "docket", about=500),
    System("SAQ", "saq"),
)
NO_OPS = (NO_OP, Load(100))
TEN_MS = (Load(20, 0.01), Load(100, 0.01))
BACKLOGS = (1_000, 10_000, 100_000, 1_000_000)


def backlog(size: int) -> Scenario:
    """Measure what a message costs behind a backlog of ``size``; only ours and the bare loop."""

    def measure(session: Session, system: System) -> Metrics | None:
        if system.peer or (session.quick and size > BACKLOGS[-2]):
            return None
        return session.bench.backlog(system, NO_OP, size, 10_000)

    return Scenario(_backlog_name(size), measure)


def _backlog_name(size: int) -> str:
    return f"backlog of {size:,}"


SCENARIOS = (
    *map(drain, NO_OPS),
    *map(drain, TEN_MS),
    ENQUEUE,
    IDLE,
    HALF_LOAD,
    *map(backlog, BACKLOGS),
)


def render(results: Results, systems: Sequence[System]) -> list[str]:
    """Show the tables and the bars."""
    lines = results.header()
    lines += bars("streams", _bars(results, systems))
    for load in NO_OPS:
        lines += results.table(drain(load).name, DRAIN_COLUMNS, BARE.name)
    for load in TEN_MS:
        lines += results.table(drain(load).name, IDEAL_COLUMNS)
    lines += results.table(ENQUEUE.name, {"rate": "per second"})
    lines += results.table(IDLE.name, IDLE_COLUMNS)
    lines += results.table(HALF_LOAD.name, LATENCY_COLUMNS)
    for size in BACKLOGS:
        lines += results.table(_backlog_name(size), {"cpu_us": "CPU µs each", "rss_mb": "RSS MB"})
    return lines


def _bars(results: Results, systems: Sequence[System]) -> list[Bar]:
    peers = [system.name for system in systems if system.peer]
    found: list[Bar] = []
    for load in NO_OPS:
        name = drain(load).name
        bare = results.median(BARE.name, name)
        found.append(Bar(f"{name}: × the bare loop", results.ratio(OURS.name, bare, name), 0.8))
        if best := results.best(peers, name):
            ratio = results.ratio(OURS.name, best[1], name)
            found.append(Bar(f"{name}: × the best peer ({best[0]})", ratio, 8))
        commands = results.median(OURS.name, name, "commands")
        found.append(Bar(f"{name}: Redis commands each", commands, 0.1, at_least=False))
    for load in TEN_MS:
        ideal = results.median(OURS.name, drain(load).name, "ideal")
        found.append(Bar(f"{drain(load).name}: of ideal", ideal, 0.8))
    if best := results.best(peers, IDLE.name, "p95", low=True):
        own = results.median(OURS.name, IDLE.name, "p95")
        found.append(Bar(f"idle p95, ms, below every peer ({best[0]})", own, best[1], False))
    costs = [results.median(OURS.name, _backlog_name(size), "cpu_us") for size in BACKLOGS]
    known = [cost for cost in costs if cost is not None]
    if len(known) > 1:
        flat = known[-1] / known[0]
        found.append(Bar("CPU each: largest backlog ÷ smallest", flat, 1.2, at_least=False))
    return found


if __name__ == "__main__":
    main("Streams", SYSTEMS, SCENARIOS, render)
