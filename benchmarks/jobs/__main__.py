"""The job worker against its peers: ``python -m benchmarks.jobs``."""

from collections.abc import Sequence

from benchmarks.harness import Load, System
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
    drain,
    main,
)

OURS = System("ours", "ours_jobs", about=2000, peer=False)
TUNED = System("arq tuned", "arq", env={"BENCH_TUNED": "1"})
SYSTEMS = (
    OURS,
    System("ours on arq", "ours_jobs", about=500, peer=False, env={"BENCH_ARQ_SERVICE": "1"}),
    System("arq default", "arq", about=300),
    TUNED,
    System("SAQ", "saq"),
    System("streaq", "streaq", about=500),
    System("taskiq-redis", "taskiq"),
    System("docket", "docket", about=500),
    System("dramatiq", "dramatiq"),
    System("RQ", "rq", about=60, max_concurrency=20),
    System("Huey", "huey"),
    System("Celery", "celery", about=500, max_concurrency=20),
)
NO_OPS = (NO_OP, Load(100))
PROCESSES = (Load(processes=2), Load(processes=4))
TEN_MS = (Load(20, 0.01), Load(100, 0.01))
ONE_S = (Load(20, 1.0), Load(100, 1.0))
SCENARIOS = (
    *map(drain, (*NO_OPS, *PROCESSES, *TEN_MS, *ONE_S)),
    ENQUEUE,
    IDLE,
    HALF_LOAD,
)


def render(results: Results, systems: Sequence[System]) -> list[str]:
    """Show the tables and the bars."""
    lines = results.header()
    lines += bars("jobs", _bars(results, systems))
    for load in NO_OPS:
        lines += results.table(drain(load).name, DRAIN_COLUMNS, TUNED.name)
    for load in PROCESSES:
        lines += results.table(drain(load).name, {"rate": "per second", "rss_mb": "RSS MB"})
    for load in (*TEN_MS, *ONE_S):
        lines += results.table(drain(load).name, IDEAL_COLUMNS)
    lines += results.table(ENQUEUE.name, {"rate": "per second"})
    lines += results.table(IDLE.name, IDLE_COLUMNS)
    lines += results.table(HALF_LOAD.name, LATENCY_COLUMNS)
    return lines


def _bars(results: Results, systems: Sequence[System]) -> list[Bar]:
    peers = [system.name for system in systems if system.peer]
    found: list[Bar] = []
    for load in NO_OPS:
        name = drain(load).name
        tuned = results.median(TUNED.name, name)
        found.append(Bar(f"{name}: × arq tuned", results.ratio(OURS.name, tuned, name), 5))
        if best := results.best(peers, name):
            ratio = results.ratio(OURS.name, best[1], name)
            found.append(Bar(f"{name}: × the best peer ({best[0]})", ratio, 1))
        for metric, what, limit in (("commands", "Redis commands", 6), ("reads", "round trips", 2)):
            value = results.median(OURS.name, name, metric)
            found.append(Bar(f"{name}: {what} each", value, limit, at_least=False))
    name = drain(TEN_MS[0]).name
    found.append(Bar(f"{name}: of ideal", results.median(OURS.name, name, "ideal"), 0.8))
    name = drain(TEN_MS[1]).name
    if best := results.best(peers, name):
        ratio = results.ratio(OURS.name, best[1], name)
        found.append(Bar(f"{name}: × the best peer ({best[0]})", ratio, 3))
    for load in ONE_S:
        name = drain(load).name
        found.append(Bar(f"{name}: of ideal", results.median(OURS.name, name, "ideal"), 0.95))
    if best := results.best(peers, IDLE.name, "p95", low=True):
        own = results.median(OURS.name, IDLE.name, "p95")
        found.append(Bar(f"idle p95, ms, below every peer ({best[0]})", own, best[1], False))
    idle = results.median(OURS.name, IDLE.name, "idle_commands")
    found.append(Bar("idle: Redis commands per second", idle, 5, at_least=False))
    return found


if __name__ == "__main__":
    main("Jobs", SYSTEMS, SCENARIOS, render)
