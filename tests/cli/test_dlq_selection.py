"""``dlq`` on exactly the messages that a person means, and on any terminal."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result
from processkit import Project, until


def fill(project: Project, count: int) -> None:
    for number in range(count):
        fields = {"type": "order", "data": json.dumps({"number": number}), "_id": f"m{number}"}
        project.redis.xadd("orders:dlq", fields, f"{1_700_000_000_000 + number * 1000}-0")


def ids(project: Project, stream: str) -> list[str]:
    return [fields["_id"] for _, fields in project.redis.xrange(stream)]


@pytest.fixture
def answer(in_process: Callable[..., Result]) -> Callable[..., Any]:
    def run(*arguments: str, **options: str) -> Any:
        done = in_process("dlq", *arguments, "--json", **options)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    return run


def test_ids_come_from_options_and_from_standard_input(
    project: Project, answer: Callable[..., Any]
) -> None:
    fill(project, 10)
    shown = answer("show", "--id", "m7", "--id", "1700000003000-0")
    assert [entry["message_id"] for entry in shown] == ["m3", "m7"]
    found = answer("replay", "--id", "-", "--id", "m1", input="m4\nm9 m2\n")
    assert found["replayed"] == 4
    assert sorted(ids(project, "orders")) == ["m1", "m2", "m4", "m9"]


def test_one_unknown_id_changes_nothing(
    project: Project, in_process: Callable[..., Result]
) -> None:
    fill(project, 2)
    done = in_process("dlq", "replay", "--id", "m0", "--id", "m11")
    assert done.exit_code == 2
    assert "no dead letter has the id 'm11'; did you mean m1?" in done.stderr
    assert not project.redis.exists("orders")


def test_the_newest_are_replayed_first(project: Project, answer: Callable[..., Any]) -> None:
    fill(project, 5)
    assert answer("replay", "--yes", "--newest", "--limit", "2")["replayed"] == 2
    assert ids(project, "orders") == ["m4", "m3"]
    (newest,) = answer("show", "--newest", "--limit", "1")
    assert newest["message_id"] == "m2"


def test_fields_and_a_period_select(project: Project, answer: Callable[..., Any]) -> None:
    fill(project, 5)
    (entry,) = answer("show", "--where", "number=3")
    assert entry["message_id"] == "m3"
    period = ("--since", "2023-11-14T22:13:21Z", "--until", "2023-11-14T22:13:23Z")
    assert [e["message_id"] for e in answer("show", *period)] == ["m1", "m2"]


def test_an_interrupted_replay_tells_how_much_it_did(project: Project) -> None:
    fill(project, 200)
    replay = project.start("dlq", "replay", "--yes", "--rate", "50")
    until(lambda: project.redis.xlen("orders") > 5, "some replays")
    replay.send(signal.SIGINT)
    assert replay.ended() == 1
    told = re.search(r"^(\d+) replayed, then interrupted$", replay.output, re.MULTILINE)
    assert told, replay.output
    assert int(told[1]) == project.redis.xlen("orders") == 200 - project.redis.xlen("orders:dlq")


def test_a_dead_job_whose_task_is_still_unknown_stays(
    project: Project, answer: Callable[..., Any]
) -> None:
    for name in ("add", "removed"):
        job = json.dumps({"t": None, "f": name, "a": [1], "k": {}, "et": 1})
        letter = {"type": name, "data": "{}", "_id": name, "_job": job, "_reason": "unknown"}
        project.redis.xadd("arq:queue:dlq", letter)
    for more in (("--dry-run",), ()):
        found = answer("replay", "--yes", *more)
        assert found == {"dry_run": bool(more), "replayed": 1, "unknown": 1}
    assert ids(project, "arq:queue:dlq") == ["removed"]


def test_a_terminal_that_is_not_utf_8_shows_what_it_can(project: Project) -> None:
    def shown(*options: str, **variables: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "tinyworker", "dlq", *options],
            cwd=project.folder,
            env=project.environment(variables),
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.decode("latin-1")

    letter = {"type": "order", "data": '{"a": "ü😀"}', "_error": "ü😀", "_error_type": "E"}
    project.redis.xadd("orders:dlq", letter)
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert "E: \\xfc\\U0001f600" in shown("ls", **ascii_only)
    assert "E: ü\\U0001f600" in shown("show", PYTHONIOENCODING="latin-1")
    (entry,) = json.loads(shown("show", "--json", PYTHONIOENCODING="latin-1"))
    assert entry["data"] == '{"a": "ü😀"}'


def test_a_pipe_that_is_closed_is_not_an_error(project: Project) -> None:
    for _ in range(300):
        project.redis.xadd("orders:dlq", {"type": "order", "data": "x" * 1000})
    command = f"{sys.executable} -m tinyworker dlq show --limit 300 | head -1"
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"],
        cwd=project.folder,
        env=project.environment({}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")


def test_help_names_every_way_to_select(in_process: Callable[..., Result]) -> None:
    os.environ.pop("COLUMNS", None)
    text = in_process("dlq", "replay", "--help").output
    for option in ("--id", "--where", "--since", "--until", "--newest", "--yes"):
        assert f"{option} " in text
