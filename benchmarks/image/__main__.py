"""What the generated image weighs, costs and loses: ``python -m benchmarks.image``.

It renders the template's HEAD, builds the project with the Docker engine at hand, and others'
folders beside it; then it starts the worker, and replaces two workers by newer images under load.
DOCKER names another client than ``docker``; options that are not known here go to
``docker build``. The base images have to be there (``docker pull``), or their pulling would count.
"""

import argparse
import asyncio
import json
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import redis

from benchmarks.harness import Metrics
from benchmarks.report import Bar, Results, bars, describe, progress

from .engine import (
    NAME,
    Network,
    base_of,
    build,
    docker,
    inspect,
    layers,
    wait_until_healthy,
    weigh,
)
from .project import Project, locked, record, render
from .rolling import START_FIRST, STEADY, STOP_FIRST, replace_all

OURS, TELEMETRY = "ours", "ours, with telemetry"
SIZE, BUILD, START, ROLLING, TOTALS = (
    "image",
    "build",
    "start, and memory when idle",
    "latency while a worker is replaced",
    "replacement under load",
)
SIZE_COLUMNS = {
    "above": "above the base image, MB", "above_gzip": "of it as sent (gzip), MB",
    "size": "whole image, MB", "release": "a code change anew, MB",
    "release_gzip": "of it as sent (gzip), MB",
}  # fmt: skip
BUILD_COLUMNS = {
    "cold": "cold s", "again": "no layers, packages cached s", "same": "nothing changed s",
    "code": "a line of code s", "dependency": "a dependency more s",
}  # fmt: skip
START_COLUMNS = {
    "ready": "ready s", "handled": "first message done s", "healthy": "healthy s",
    "pss": "PSS MB", "rss": "RSS MB", "cgroup": "cgroup MB", "stats": "docker stats MB",
}  # fmt: skip
ROLLING_COLUMNS = {
    "p95": "p95 ms", "p50": "p50 ms", "p99": "p99 ms", "most": "longest ms",
    "gap": "longest gap ms", "rate": "per second",
}  # fmt: skip
TOTALS_COLUMNS = {
    "sent": "sent", "lost": "lost", "twice": "handled twice", "left": "left in Redis",
    "replaced": "workers replaced", "failed": "exit codes beside 0", "releases": "releases",
    "stop_s": "longest stop s",
}  # fmt: skip
FAULTS = ("lost", "twice", "left", "failed")
PACKAGES = ("arq", "hiredis", "pydantic", "pydantic-settings", "redis", "uvloop")
MB = 1e6
POLL_S = 0.005
CGROUP = "cat /sys/fs/cgroup/memory.current || cat /sys/fs/cgroup/memory/memory.usage_in_bytes"
UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def measure_builds(project: Project, work: Path, given: argparse.Namespace) -> Metrics:
    """Time the builds of one project, from nothing to a change of its dependencies."""
    tag = f"{NAME}:build"
    copy = project.copy(work)
    metrics: Metrics = {}

    def timed(name: str, *options: str) -> None:
        metrics[name] = build(tag, copy.folder, copy.dockerfile, (*given.build, *options))

    if given.prune:
        docker("builder", "prune", "--all", "--force")
        timed("cold")
    timed("again", "--no-cache")
    timed("same")
    copy.change_code()
    timed("code")
    copy = project.copy(work)
    copy.change_dependencies()
    timed("dependency")
    return metrics


def measure_size(project: Project, work: Path, given: argparse.Namespace) -> Metrics:
    """Weigh the image of one project, and what a change of its code adds."""
    tag, changed = f"{NAME}:size", f"{NAME}:changed"
    copy = project.copy(work)
    build(tag, copy.folder, copy.dockerfile, given.build)
    copy.change_code()
    build(changed, copy.folder, copy.dockerfile, given.build)
    base = base_of(tag)
    progress(f"{project.name} is built on {base}")
    above = weigh(tag, without=layers(base))
    new = weigh(changed, without=layers(tag))
    return {
        "above": sum(layer.size for layer in above) / MB,
        "above_gzip": sum(layer.compressed for layer in above) / MB,
        "size": int(inspect(tag, ".Size")) / MB,
        "release": sum(layer.size for layer in new) / MB,
        "release_gzip": sum(layer.compressed for layer in new) / MB,
    }


def measure_start(project: Project, work: Path, given: argparse.Namespace) -> Metrics:
    """Start a worker with a message waiting for it, and weigh it when it has nothing left to do."""
    tag = f"{NAME}:start"
    build(tag, project.folder, project.dockerfile, given.build)
    metrics: Metrics = {}
    with Network() as network, tempfile.TemporaryDirectory() as folder:
        order = json.dumps({"order_id": 1, "email": "a@example.com", "amount_cents": 1})
        publish = ("publish", "order.placed", "--json", order)
        publisher = network.start("publisher", tag, command=publish)
        docker("wait", publisher)
        client = redis.Redis(port=network.redis_port, decode_responses=True)
        # Where the host can see the heartbeat file; the worker is another user.
        Path(folder).chmod(0o777)
        beat = Path(folder) / "healthy"
        seen = (f"--volume={folder}:/health", "--env=WORKER_HEALTH_FILE=/health/healthy")
        started = time.perf_counter()

        def wait(name: str, there: Callable[[], bool]) -> None:
            while not there():
                if time.perf_counter() - started > 60:
                    message = f"{project.name}: not {name} after a minute"
                    raise TimeoutError(message)
                time.sleep(POLL_S)
            metrics[name] = time.perf_counter() - started

        worker = network.start("worker", tag, *seen)
        wait("ready", lambda: beat.exists() and json.loads(beat.read_text())["state"] == "ready")
        wait("handled", lambda: _acknowledged(client))
        wait_until_healthy(worker)
        metrics["healthy"] = time.perf_counter() - started
        time.sleep(2 if given.quick else 10)
        # Without an init process the worker is the first of its container.
        rollup = docker("exec", worker, "cat", "/proc/1/smaps_rollup")
        for name in ("Pss", "Rss"):
            found = re.search(rf"^{name}: +(\d+) kB", rollup, re.MULTILINE)
            assert found, "smaps_rollup tells both"
            metrics[name.lower()] = int(found[1]) * 1024 / MB
        usage = docker("exec", worker, "sh", "-c", f"({CGROUP}) 2> /dev/null")
        metrics["cgroup"] = int(usage) / MB
        shown = docker("stats", "--no-stream", "--format={{.MemUsage}}", worker).split()[0]
        number, unit = shown[:-3], shown[-3:]
        metrics["stats"] = float(number) * UNITS[unit] / MB
        docker("stop", "-t", "75", worker)
    return metrics


def _acknowledged(client: Any) -> bool:
    groups = client.xinfo_groups("orders") if client.exists("orders") else []
    return bool(groups) and groups[0]["entries-read"] == 1 and groups[0]["pending"] == 0


def measure_rolling(results: Results, folder: Path, given: argparse.Namespace) -> None:
    """Build a release for each round, and replace the workers by one after the other."""
    images = []
    project = render("recording", folder)
    for release in range(given.rounds + 1):
        record(project, release)
        images.append(f"{NAME}:release-{release}")
        build(images[-1], project.folder, project.dockerfile, given.build)
    with Network() as network:
        outcome = asyncio.run(replace_all(network, images, given.rate))
    results.add(OURS, TOTALS, outcome.totals())
    for kind in ("message", "job"):
        for order in (STEADY, STOP_FIRST, START_FIRST):
            if order == STEADY or any(one.order == order for one in outcome.replacements):
                results.add(f"{kind}s, {order}", ROLLING, outcome.phase(order, kind))


def measure(results: Results, work: Path, given: argparse.Namespace) -> None:
    """Measure what the command line asks for."""

    def add(project: Project, scenario: str, metrics: Metrics) -> None:
        results.add(project.name, scenario, metrics)
        numbers = ", ".join(f"{k} {v:.4g}" for k, v in metrics.items())
        progress(f"{scenario} | {project.name}: {numbers}")
        if given.json:
            results.save(given.json)

    ours = [render(OURS, work / "ours"), render(TELEMETRY, work / "all", "telemetry=true")]
    results.about["versions"] = {name: locked(ours[0], name) for name in PACKAGES}
    everyone = [*ours, *map(Project.parse, given.against)]
    for scenario, projects, repetitions, measure_one in (
        (SIZE, everyone, 1, measure_size),
        (START, ours, given.repetitions, measure_start),
        (BUILD, everyone, given.repetitions, measure_builds),
    ):
        for _ in range(repetitions if scenario in given.parts else 0):
            # All in turn, so that a noisy minute of the machine hits them alike.
            for project in projects:
                add(project, scenario, measure_one(project, work / "copy", given))
    if ROLLING in given.parts:
        measure_rolling(results, work / "recording", given)


def render_tables(results: Results) -> list[str]:
    """Show the tables, and whether anything was lost."""
    lines = results.header()
    if total := results.median(OURS, TOTALS, "sent"):
        found = [
            Bar(TOTALS_COLUMNS[metric], results.median(OURS, TOTALS, metric), 0, at_least=False)
            for metric in FAULTS
        ]
        lines += bars(f"{total:,.0f} messages and jobs", found)
    lines += results.table(SIZE, SIZE_COLUMNS)
    lines += results.table(BUILD, BUILD_COLUMNS)
    lines += results.table(START, START_COLUMNS)
    lines += results.table(TOTALS, TOTALS_COLUMNS)
    return lines + results.table(ROLLING, ROLLING_COLUMNS)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Image")
    parser.add_argument(
        "--against", action="append", default=[], metavar="NAME=FOLDER[:DOCKERFILE]",
        help="also build this folder; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--prune", action="store_true",
        help="measure cold builds, too: this deletes all of the engine's build cache",
    )  # fmt: skip
    names = {"size": SIZE, "start": START, "build": BUILD, "rolling": ROLLING}
    parser.add_argument("--parts", default=",".join(names), help="some of these, with commas")
    parser.add_argument("--quick", action="store_true", help="one repetition, fewer rounds")
    parser.add_argument("--repetitions", type=int, help="3, or 1 with --quick")
    parser.add_argument("--rounds", type=int, help="releases to roll out: 6, or 2 with --quick")
    parser.add_argument("--rate", type=float, default=400, help="messages and jobs a second")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--render", type=Path, help="measure nothing, show such a file")
    given, given_to_build = parser.parse_known_args(arguments)
    given.build = given_to_build
    given.parts = [names[part] for part in given.parts.split(",")]
    given.repetitions = given.repetitions or (1 if given.quick else 3)
    given.rounds = given.rounds or (2 if given.quick else 6)
    return given


def main() -> None:
    """Measure what the command line asks for and print the tables."""
    given = parse()
    if given.render:
        print("\n".join(render_tables(Results.load(given.render))))
        return
    # Ended from outside, it still ends its containers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    server = docker("version", "--format=Docker {{.Server.Version}}")
    results = Results("Image", describe(server, {}, given.repetitions))
    try:
        with tempfile.TemporaryDirectory() as folder:
            measure(results, Path(folder), given)
    finally:
        for tag in docker("images", "--format={{.Repository}}:{{.Tag}}", NAME).split():
            docker("image", "rm", "--force", tag, check=False)
    if given.json:
        results.save(given.json)
    print("\n".join(render_tables(results)))
    # Unlike times, this does not depend on the machine.
    if any(results.median(OURS, TOTALS, metric) for metric in FAULTS):
        sys.exit("not every message and job was handled once, or a worker did not end well")


if __name__ == "__main__":
    main()
