"""What both benchmarks share: the scenarios, their order and the command line."""

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workerbase.testing.redis_server import Server

from .harness import MOST_MESSAGES, Bench, Load, Metrics, System
from .report import Results, describe, progress

NO_OP = Load()


@dataclass
class Session:
    """One run of a benchmark."""

    bench: Bench
    quick: bool
    pace: dict[str, float] = field(default_factory=dict)
    """What each system drained of late, and (under "enqueue …") took in, a second."""

    def size(self, system: System, load: Load) -> int:
        """Choose a number of messages that keeps the workers busy for a few seconds."""
        seconds = 1.5 if self.quick else 3.0
        rate = min(self.pace.get(system.name, system.about) * load.processes, load.ideal)
        # Whole rounds of all slots: a last round with few would not be the system's fault.
        slots = load.concurrency * load.processes
        rounds = max(3, round(rate * seconds / slots))
        return (
            max(slots, min(rounds * slots, MOST_MESSAGES))
            if load.seconds
            else max(200, min(int(rate * seconds), MOST_MESSAGES))
        )


Measure = Callable[[Session, System], Metrics | None]


@dataclass(frozen=True)
class Scenario:
    """A measurement by name; it returns None for a system to which it does not apply."""

    name: str
    measure: Measure


def drain(load: Load) -> Scenario:
    """Drain a queue that was filled before."""

    def measure(session: Session, system: System) -> Metrics | None:
        if load.concurrency > system.max_concurrency:
            return None
        metrics = session.bench.drain(system, load, session.size(system, load))
        if load == NO_OP and "rate" in metrics:
            session.pace[system.name] = metrics["rate"]
        return metrics

    return Scenario(f"drain: {load}", measure)


def _enqueue(session: Session, system: System) -> Metrics:
    metrics = session.bench.enqueue(system, 500 if session.quick else 2000)
    session.pace[f"enqueue {system.name}"] = metrics["rate"]
    return metrics


def _idle(session: Session, system: System) -> Metrics:
    return session.bench.latency(system, NO_OP, None, 100 if session.quick else 250)


def _half_load(session: Session, system: System) -> Metrics:
    rates = (session.pace.get(name, 1000.0) for name in (system.name, f"enqueue {system.name}"))
    rate = min(rates) / 2
    count = int(min(5000, max(100, rate * (1.5 if session.quick else 3.0))))
    return session.bench.latency(system, NO_OP, rate, count)


ENQUEUE = Scenario("enqueue: one client, one after the other", _enqueue)
IDLE = Scenario("latency, idle: one message each 20 ms", _idle)
HALF_LOAD = Scenario("latency at half load: half of what it drains or takes in", _half_load)

DRAIN_COLUMNS = {
    "rate": "per second",
    "cpu_us": "CPU µs each",
    "commands": "Redis commands each",
    "reads": "socket reads of Redis each",
    "rss_mb": "RSS MB",
}
IDEAL_COLUMNS = {"rate": "per second", "ideal": "of ideal", "cpu_us": "CPU µs each"}
LATENCY_COLUMNS = {"p95": "p95 ms", "p50": "p50 ms", "p99": "p99 ms", "rate": "load per second"}
IDLE_COLUMNS = {
    **LATENCY_COLUMNS, "idle_commands": "idle: commands per second", "idle_cpu": "idle: CPU share",
    "rss_mb": "RSS MB",
}  # fmt: skip


def main(
    title: str,
    systems: Sequence[System],
    scenarios: Sequence[Scenario],
    render: Callable[[Results, Sequence[System]], list[str]],
) -> None:
    """Measure what the command line asks for and print the tables."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--quick", action="store_true", help="one short repetition")
    parser.add_argument("--repetitions", type=int, help="3, or 1 with --quick")
    parser.add_argument("--systems", default="", help="only these, by name, with commas")
    parser.add_argument(
        "--scenarios", default="", help="only those that contain one of these, with semicolons"
    )
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--log", type=Path, help="write what the systems print to this file")
    parser.add_argument("--render", type=Path, help="measure nothing, show such a file")
    given = parser.parse_args()
    if given.render:
        print("\n".join(render(Results.load(given.render), systems)))
        return
    # Ended from outside, it still ends its workers and its server.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    wanted = [s for s in systems if not given.systems or s.name in given.systems.split(",")]
    parts = given.scenarios.split(";")
    chosen = [s for s in scenarios if any(part in s.name for part in parts)]
    repetitions = given.repetitions or (1 if given.quick else 3)
    with tempfile.TemporaryDirectory() as folder, Server() as server:
        bench = Bench(server, given.log or Path(folder) / "log")
        for system in wanted:
            bench.install(system)
        results = Results(title, describe(server.version, bench.versions, repetitions))
        session = Session(bench, given.quick)
        for repetition in range(repetitions):
            for scenario in chosen:
                # All systems in turn, so that a noisy minute of the machine hits them alike.
                for system in wanted:
                    metrics = scenario.measure(session, system)
                    if metrics is None:
                        continue
                    results.add(system.name, scenario.name, metrics)
                    numbers = ", ".join(f"{k} {v:.4g}" for k, v in metrics.items())
                    if given.json:
                        results.save(given.json)
                    progress(f"{repetition + 1} {scenario.name} | {system.name}: {numbers}")
    print("\n".join(render(results, wanted)))
