"""Demo and chaos in projects that have not chosen every feature."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from leanproject import LeanProject

LEAN = [("streams",), ("leased_jobs",), ("streams", "leased_jobs", "telemetry", "console")]


@pytest.fixture(params=LEAN, ids="without {0}".format)
def without(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The features that the project lacks."""
    found: tuple[str, ...] = request.param
    return found


@pytest.fixture
def lean(tmp_path: Path, without: tuple[str, ...]) -> LeanProject:
    return LeanProject(tmp_path, *without)


def test_commands_are_those_of_the_chosen_features(
    lean: LeanProject, without: tuple[str, ...]
) -> None:
    shown = lean.run("--help")
    assert shown.returncode == 0, shown.stderr
    commands = set(re.findall(r"^  (\w+)", shown.stdout.partition("Commands:")[2], re.MULTILINE))
    streams = set() if "streams" in without else {"groups", "publish"}
    core = {"dlq", "enqueue", "health", "run", "status"}
    console = {"console", "dev", "find", "jobs", "schedule", "workers"}
    console = set() if "console" in without else console
    assert commands == core | {"base", "chaos", "demo"} | streams | console
    watches = "--watch" in lean.run("status", "--help").stdout
    assert watches == ("console" not in without)


def test_the_demo_adds_up(lean: LeanProject, without: tuple[str, ...]) -> None:
    shown = lean.run("demo")
    assert (shown.returncode, shown.stderr) == (0, ""), shown.stdout
    lines = shown.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines[1:])
    table = [line.split() for line in lines if re.match(r" +\d+ {3}\w", line)]
    rows = [[int(word) for word in row if word.isdecimal()][:2] for row in table]
    if "streams" in without:
        assert rows == [[18, 18], [2, 2], [2, 2], [2, 2], [24, 24]]
        assert "Every job is accounted for." in shown.stdout
        assert "message" not in shown.stdout
    else:
        assert rows == [[16, 16], [2, 2], [2, 2], [2, 2], [1, 1], [1, 1], [24, 24]]
        assert "Every message is accounted for." in shown.stdout


def test_chaos_loses_nothing(lean: LeanProject, without: tuple[str, ...]) -> None:
    done = lean.run(
        "chaos", "--json", "--messages=160", "--jobs=160", "--workers=3", "--producers=2",
        "--kill=0.2", "--restart=0.05", "--toxic=0.05", "--killers=2", "--lease=1", "--seed=3",
        "--timeout=240", timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    report: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    assert (report["passed"], report["leftover_keys"]) == (True, [])
    assert report["workers_killed"] > 0
    what = {"jobs"} if "streams" in without else {"messages", "jobs"}
    assert {name for name, found in report.items() if isinstance(found, dict)} == what
    for name in what:
        tally = report[name]
        assert (tally["sent"], tally["lost"], tally["unfinished"]) == (160, 0, 0), name
        # Under arq's own worker each death takes more than ten seconds, so it is given no killers.
        killers = 0 if name == "jobs" and "leased_jobs" in without else 2
        assert tally["dead_lettered"] == 8 + killers, name
        assert tally["handled"] == 152 - killers, name
