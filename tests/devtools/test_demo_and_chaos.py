"""``demo`` and ``chaos`` as a user runs them."""

import asyncio
import gc
import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from processkit import Project
from rich.console import Console
from workerbase.devtools import faults
from workerbase.devtools.chaos import Plan, run_chaos
from workerbase.devtools.commands import chaos
from workerbase.devtools.faults import stand_still
from workerbase.errors import NoServerError, WorkerError
from workerbase.testing.redis_server import Server


def test_the_demo_adds_up_whatever_the_project_has_set(project: Project) -> None:
    (project.folder / ".env").write_text("WORKER_MAX_RETRIES=1\nWORKER_MAX_JOBS=many\n")
    shown = project.run(
        "demo",
        COLUMNS="80",
        TINY_BREAK="import",
        WORKER_MAX_RETRIES="1",
        WORKER_CONSUMER_GROUP="mine",
        WORKER_REDIS_DSN="redis://127.0.0.1:1/0",
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == ""
    lines = shown.stdout.splitlines()
    first = re.match(r"(redis|valkey) [\d.]+, a real server \(.+\), on port (\d+)", lines[0])
    assert first, lines[0]
    assert all(len(line) <= 80 for line in lines[1:])
    for outcome, times in (
        ("handled", 18),
        ("retry later", 12),
        ("dead-lettered", 5),
        ("parked", 1),
    ):
        steps = [line for line in lines if re.search(rf" s  .* attempt \d  {outcome}\b", line)]
        assert len(steps) == times, outcome
    table = [line.split() for line in lines if re.match(r" +\d+ {3}\w", line)]
    rows = [[int(word) for word in row if word.isdecimal()][:2] for row in table]
    assert rows == [[16, 16], [2, 2], [2, 2], [2, 2], [1, 1], [1, 1], [24, 24]]
    assert "Every message is accounted for." in shown.stdout
    for word in ("idempotent", "PermanentError", "dlq replay"):
        assert word in shown.stdout
    # As the README of the project has them.
    compose = "docker compose -f compose.yaml -f compose.dev.yaml up --detach redis"
    assert [line.strip() for line in lines[-2:]] == [compose, "uv run python -m tinyworker run"]
    with socket.socket() as gone:
        assert gone.connect_ex(("127.0.0.1", int(first[2]))) != 0


def test_a_long_demo_does_not_take_its_own_failures_for_an_outage(project: Project) -> None:
    shown = project.run("demo", "--count", "300")
    assert shown.returncode == 0, shown.stderr
    assert "Every message is accounted for." in shown.stdout


async def test_chaos_whose_redis_does_not_come_back_fails_and_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts, start = 0, Server.start

    def fails_again(server: Server) -> None:
        nonlocal starts
        starts += 1
        if starts > 1:
            raise NoServerError("the port is taken")
        start(server)

    monkeypatch.setattr(Server, "start", fails_again)
    ran: list[asyncio.subprocess.Process] = []
    spawn = asyncio.create_subprocess_exec

    async def spawn_and_note(*command: Any, **options: Any) -> asyncio.subprocess.Process:
        ran.append(await spawn(*command, **options))
        return ran[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", spawn_and_note)
    plan = Plan(
        messages=10_000, jobs=10_000, workers=2, producers=2, kill=0.0, restart=1.0, toxic=0.0,
        killers=0, lease=1.0, timeout=5.0, seed=1,
    )  # fmt: skip
    with pytest.raises(NoServerError, match="the port is taken") as caught:
        await run_chaos(plan, Console(quiet=True))
    assert ran
    assert all(process.returncode is not None for process in ran)
    # What was cancelled goes now: Python 3.11 may fail to parse a module while it is collected.
    del caught
    gc.collect()


def test_without_a_server_the_demo_says_what_to_do(project: Project) -> None:
    found = project.run("demo", WORKER_DEV_SERVER="no-such-server")
    assert found.returncode == 1
    assert found.stderr == "Error: WORKER_DEV_SERVER is 'no-such-server', which is not a program\n"


def test_chaos_loses_nothing(project: Project) -> None:
    run = project.start(
        "chaos", "--json", "--messages=400", "--jobs=400", "--workers=3", "--producers=2",
        "--kill=0.15", "--restart=0.05", "--toxic=0.05", "--killers=0", "--lease=1",
        "--timeout=120", WORKER_MAX_RETRIES="1",
    )  # fmt: skip
    assert run.ended(180) == 0, run.output[-2000:]
    report: dict[str, Any] = json.loads(run.output[run.output.index("{") :])
    assert report["passed"] is True
    assert report["leftover_keys"] == []
    for what in ("messages", "jobs"):
        tally = report[what]
        assert (tally["sent"], tally["lost"], tally["unfinished"]) == (400, 0, 0), what
        assert (tally["handled"], tally["dead_lettered"]) == (380, 20), what


def test_chaos_of_every_kind_loses_nothing(project: Project) -> None:
    """Two services, lost answers, frozen processes, and clocks that differ by up to an hour."""
    run = project.start(
        "chaos", "--json", "--messages=150", "--jobs=150", "--workers=4", "--producers=2",
        "--kill=0.05", "--restart=0.02", "--toxic=0.05", "--killers=0", "--lease=2",
        "--suspend=0.05", "--freeze=0.03", "--lose=0.05", "--skew=3600", "--services=2",
        "--timeout=200",
    )  # fmt: skip
    assert run.ended(240) == 0, run.output[-2000:]
    report: dict[str, Any] = json.loads(run.output[run.output.index("{") :])
    assert report["passed"] is True
    assert report["answers_lost"] > 0
    for what in ("messages", "messages of demo-2", "jobs"):
        tally = report[what]
        assert (tally["sent"], tally["lost"], tally["unfinished"]) == (150, 0, 0), what
        assert (tally["handled"], tally["dead_lettered"]) == (142, 8), what


async def test_what_stands_still_goes_on_also_when_chaos_is_stopped() -> None:
    calls: list[str] = []
    still = stand_still(lambda: calls.append("stop"), lambda: calls.append("go on"), 3600)
    standing = asyncio.create_task(still)
    await asyncio.sleep(0)
    standing.cancel()
    await asyncio.wait({standing})
    assert calls == ["stop", "go on"]


def test_without_libfaketime_chaos_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "LIBRARIES", Path("/nowhere"))
    with pytest.raises(WorkerError, match="Debian: libfaketime"):
        faults.other_clock(60)


def test_the_default_chaos_is_the_one_that_is_promised() -> None:
    defaults = {option.name: option.default for option in chaos.params}
    assert (defaults["messages"], defaults["jobs"], defaults["workers"]) == (20_000, 20_000, 10)
    assert (defaults["restart"], defaults["kill"], defaults["toxic"]) == (0.02, 0.08, 0.05)
