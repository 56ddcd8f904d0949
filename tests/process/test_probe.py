"""The probe: what it accepts, what it imports, what it reports."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from workerbase.broker.availability import RedisAvailability
from workerbase.engine.vitals import Vitals
from workerbase.process import probe
from workerbase.process.heartbeat import Heartbeat

PROBE = str(Path(probe.__file__))


def run_probe(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-S", PROBE, *arguments],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A heartbeat of this process, ready and connected."""
    availability = RedisAvailability()
    availability.record_success()
    heartbeat = Heartbeat(str(tmp_path / "beat"), 5.0, availability)
    heartbeat.state = "ready"
    heartbeat.beat()
    return heartbeat.path


def change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_fresh_heartbeat_is_live_and_ready(path: Path) -> None:
    for mode in ("live", "ready"):
        found = run_probe(mode, str(path))
        assert (found.returncode, found.stdout, found.stderr) == (0, "ok\n", "")


def test_the_path_comes_from_the_environment_and_live_is_the_default(path: Path) -> None:
    assert run_probe(WORKER_HEALTH_FILE=str(path)).returncode == 0
    missing = run_probe(WORKER_HEALTH_FILE=f"{path}.none")
    assert missing.returncode == 1
    assert f"{path}.none: the worker is not running" in missing.stdout


@pytest.mark.parametrize("arguments", [("lively",), ("live", "a", "b"), ("--help",)])
def test_a_wrong_call_prints_the_usage(arguments: tuple[str, ...]) -> None:
    found = run_probe(*arguments)
    assert (found.returncode, found.stdout) == (2, "usage: probe.py [live|ready] [path]\n")


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ((), (0, "ok")),
        (("ready",), (1, "the worker is starting")),
        (("live", "/no/file"), (1, "no heartbeat file /no/file: the worker is not running")),
        (("lively",), (2, "usage: probe.py [live|ready] [path]")),
    ],
)
def test_the_exit_code_is_the_answer(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    answer: tuple[int, str],
) -> None:
    change(path, state="starting")
    monkeypatch.setenv("WORKER_HEALTH_FILE", str(path))
    assert (probe.main(["probe.py", *arguments]), capsys.readouterr().out.rstrip()) == answer


@pytest.mark.parametrize(
    ("error", "found"), [(None, "exists"), (PermissionError, "exists"), (ProcessLookupError, "")]
)
def test_where_the_system_has_no_proc_a_process_exists_or_not(
    monkeypatch: pytest.MonkeyPatch, error: type[OSError] | None, found: str
) -> None:
    def no_proc(path: str, **_: object) -> None:
        raise FileNotFoundError(path)

    def kill(pid: int, signum: int) -> None:
        assert signum == 0
        if error is not None:
            raise error

    monkeypatch.setattr(probe, "open", no_proc, raising=False)
    monkeypatch.setattr("os.path.exists", lambda path: False)
    monkeypatch.setattr("os.kill", kill)
    assert probe.process_start(7) == found
    assert probe.kernel_boot() == ""


def test_it_imports_nothing_but_a_little_of_the_standard_library() -> None:
    found = subprocess.run(
        [sys.executable, "-I", "-S", "-X", "importtime", PROBE],
        capture_output=True,
        text=True,
        check=False,
    )
    imported = {
        line.rpartition("|")[2].strip().partition(".")[0] for line in found.stderr.splitlines()[1:]
    }
    assert "json" in imported
    assert imported - sys.stdlib_module_names <= {"zipimport", "_abc", "_codecs", "winreg"}
    assert not imported & {"asyncio", "logging", "pathlib", "typing", "socket", "subprocess"}


@pytest.mark.parametrize(
    ("changes", "ready", "problem"),
    [
        ({"kernel_boot": "another"}, False, "before the machine started"),
        ({"pid_start": "12"}, False, "is gone"),
        ({"pid": 2**22 + 1}, False, "is gone"),
        ({"at": time.monotonic() - 100}, False, "the worker is stuck"),
        ({"at": time.monotonic() + 1000}, False, "the worker is stuck"),
        ({"stalled_at": 1.0, "stalled": "the consumer"}, False, "the consumer makes no progress"),
        ({"overdue_at": 1.0, "overdue": "job 7"}, False, "job 7 runs longer than its timeout"),
        ({"state": "starting"}, True, "the worker is starting"),
        ({"state": "draining"}, True, "the worker is draining"),
        (
            {"redis": False, "redis_problem": "ReadOnlyError: a replica"},
            True,
            "the worker cannot use Redis: ReadOnlyError: a replica",
        ),
    ],
)
def test_it_reports_what_is_wrong(
    path: Path, changes: dict[str, object], ready: bool, problem: str
) -> None:
    change(path, **changes)
    assert problem in probe.check(str(path), ready=ready)
    assert (probe.check(str(path), ready=False) == "") is ready


def test_what_will_be_late_is_not_late_yet(path: Path) -> None:
    soon = time.monotonic() + 100
    change(path, stalled_at=soon, stalled="the consumer", overdue_at=soon, overdue="job 7")
    assert probe.check(str(path), ready=True) == ""


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("{}", "is not a heartbeat of this base"),
        ("[]", "is not a heartbeat of this base"),
        ('{"kernel_boot": 1}', "before the machine started"),
    ],
)
def test_a_file_of_another_kind_does_not_count_as_alive(
    path: Path, content: str, problem: str
) -> None:
    path.write_text(content)
    assert problem in probe.check(str(path), ready=False)


@pytest.mark.parametrize("name", ["pid", "at", "max_age"])
def test_a_value_that_is_not_a_number_is_a_problem_without_a_traceback(
    path: Path, name: str
) -> None:
    change(path, **{name: "many"})
    assert "is not a heartbeat of this base" in probe.check(str(path), ready=False)


def test_a_path_that_is_a_folder_or_not_text_is_a_problem(path: Path, tmp_path: Path) -> None:
    assert "cannot be read" in probe.check(str(tmp_path), ready=False)
    path.write_bytes(b"\xff\xfe")
    assert "cannot be read" in probe.check(str(path), ready=False)


def test_the_heartbeat_reports_the_oldest_work_and_the_slowest_loop(tmp_path: Path) -> None:
    heartbeat = Heartbeat(str(tmp_path / "beat"), 5.0)
    now = time.monotonic()
    heartbeat.watch(lambda: Vitals("consumer", now - 5, now + 60, "message 1"))
    heartbeat.watch(lambda: Vitals("jobs", now - 1, now + 20, "job 2"))
    heartbeat.watch(lambda: Vitals("idle"))
    heartbeat.beat()
    beat = json.loads(heartbeat.path.read_text())
    assert beat["stalled"] == "the consumer"
    assert beat["stalled_at"] == pytest.approx(now - 5 + 30)
    assert beat["overdue"] == "job 2"
    assert beat["overdue_at"] == pytest.approx(now + 20 + 15)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_the_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it(
    tmp_path: Path,
) -> None:
    heartbeat = Heartbeat(str(tmp_path / "beat"), 5.0)
    heartbeat.beat()
    with heartbeat.path.open() as opened_before:
        heartbeat.beat()
        json.loads(opened_before.read())  # still the whole former beat
        assert heartbeat.path.stat().st_ino != os.fstat(opened_before.fileno()).st_ino
    assert names(tmp_path) == ["beat"]
    await heartbeat.stop()
    assert names(tmp_path) == []
    await heartbeat.stop()
