"""The health file of a running worker is true, however the worker ends or hangs."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processkit import Project, until
from workerbase.process import probe

PROBE = Path(probe.__file__)
STALE = "left by a former run"


def published(project: Project, number: int, **fields: object) -> None:
    data = json.dumps({"number": number, **fields})
    project.redis.xadd("orders", {"type": "order", "data": data})


def test_a_started_worker_is_ready_for_every_kind_of_probe(project: Project) -> None:
    project.start_ready()
    assert subprocess.run(["test", "-f", str(project.health)], check=False).returncode == 0
    for mode in ("live", "ready"):
        command = [sys.executable, "-I", "-S", str(PROBE), mode, str(project.health)]
        assert subprocess.run(command, check=False).returncode == 0
    assert project.run("health", "--ready").stdout == "ok\n"
    boot = json.loads(project.health.read_text())["boot_id"]
    assert len(boot) == 32


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_worker_in_good_order(project: Project, signum: int) -> None:
    worker = project.start_ready()
    worker.send(signum)
    assert worker.ended() == 0
    assert not project.health.exists()
    assert project.run("health").returncode == 1


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"TINY_BREAK": "import"}, "ModuleNotFoundError: No module named 'no_such_module'"),
        ({"WORKER_MAX_JOBS": "many"}, "Error: the configuration is invalid:\n  WORKER_MAX_JOBS"),
        ({"TINY_SETTINGS": "tinywork.worker:Settings"}, "Error: there is no module 'tinywork'"),
        ({"TINY_SETTINGS": "tinyworker.work:Settings"}, "there is no module 'tinyworker.work'"),
        (
            {"TINY_SETTINGS": "tinyworker.worker:Setting"},
            "worker:Setting does not exist",
        ),
        ({"TINY_SETTINGS": "tinyworker.worker:add"}, "not a subclass of BaseArqWorkerSettings"),
        ({"TINY_BREAK": "startup"}, "RuntimeError: the project's own startup failed"),
        ({"TINY_BREAK": "crashing consumer"}, "RuntimeError: a bug in the consumer"),
    ],
)
def test_a_worker_that_cannot_run_reports_why_and_leaves_no_health_file(
    project: Project, env: dict[str, str], message: str
) -> None:
    project.health.write_text(STALE)
    ended = project.run("run", **env)
    assert ended.returncode == 1
    assert message in ended.stderr
    assert not project.health.exists()
    if "Error: " in message and message.startswith("Error"):
        assert "Traceback" not in ended.stderr


def test_a_stale_file_is_gone_before_the_project_is_imported(project: Project) -> None:
    project.health.write_text(STALE)
    hanging = project.folder / "hang"
    hanging.mkdir()
    # A worker whose import never ends has no health file either.
    (hanging / "no_such_module.py").write_text("import time; time.sleep(600)")
    path = os.pathsep.join((str(hanging), project.variables["PYTHONPATH"]))
    project.start("run", TINY_BREAK="import", PYTHONPATH=path)
    until(lambda: not project.health.exists(), "removal of the stale file")


def test_a_health_file_that_cannot_be_written_is_one_clear_sentence(project: Project) -> None:
    missing = project.run("run", WORKER_HEALTH_FILE=str(project.folder / "none" / "healthy"))
    assert missing.returncode == 1
    assert "healthy (No such file or directory): set WORKER_HEALTH_FILE" in missing.stderr
    folder = project.run("run", WORKER_HEALTH_FILE=str(project.folder))
    assert folder.returncode == 1
    assert "WORKER_HEALTH_FILE must name a file that the worker may write" in folder.stderr
    assert "Traceback" not in missing.stderr + folder.stderr


def test_a_killed_worker_is_not_alive_and_the_next_one_is(project: Project) -> None:
    worker = project.start_ready()
    worker.send(signal.SIGKILL)
    worker.ended()
    assert project.health.exists()
    assert "is gone" in project.problem()
    project.start_ready()


def test_a_stopped_worker_is_stuck_until_it_goes_on(project: Project) -> None:
    worker = project.start_ready()
    worker.send(signal.SIGSTOP)
    assert "the worker is stuck" in until(project.problem, "a stale heartbeat")
    worker.send(signal.SIGCONT)
    until(lambda: not project.problem(), "a heartbeat")


def test_a_blocked_event_loop_is_stuck(project: Project) -> None:
    project.start_ready()
    published(project, 1, how="blocks", seconds=30)
    assert "the worker is stuck" in until(project.problem, "a stale heartbeat")


def test_a_blocked_event_loop_is_reported_with_its_stack_while_blocked(
    project: Project,
) -> None:
    worker = project.start_ready()
    published(project, 1, how="blocks", seconds=6)
    until(lambda: "the event loop has been blocked for" in worker.output, "a log record")
    assert "the event loop runs again" not in worker.output
    place = worker.output.partition("asyncio.to_thread, here:")[2]
    assert "in on_order" in place
    until(lambda: "the event loop runs again after" in worker.output, "its end")


def test_a_worker_with_an_open_breaker_is_healthy_and_reports_it(project: Project) -> None:
    project.start_ready(WORKER_BREAKER_THRESHOLD="2", WORKER_MAX_RETRIES="50")
    for number in range(4):
        published(project, number, how="fails")
    until(lambda: "breaker is open" in project.run("health", "--ready").stdout, "a note")
    reported = project.run("health")
    assert reported.returncode == 0
    why = "all messages of order on orders fail, the last with ValueError"
    assert reported.stdout == f"ok, but the breaker is open: {why}\n"


def test_two_workers_with_one_health_file_are_warned_and_the_first_stays_alive(
    project: Project,
) -> None:
    first = project.start_ready()
    second = project.start("run")
    until(lambda: f"pid {first.process.pid} writes" in second.output, "a warning")
    until(lambda: second.process.pid == _writer(project), "a beat of the second")
    until(lambda: first.process.pid == _writer(project), "a beat of the first")
    second.send(signal.SIGTERM)
    assert second.ended() == 0
    until(lambda: first.process.pid == _writer(project), "a beat of the first")
    first.send(signal.SIGTERM)
    assert first.ended() == 0
    assert not project.health.exists()


def _writer(project: Project) -> int:
    return int(json.loads(project.health.read_text())["pid"]) if project.health.exists() else 0


def test_a_consumer_that_completes_no_pass_is_stuck(project: Project) -> None:
    project.start_ready(TINY_BREAK="stuck consumer")
    assert until(project.problem, "a stall") == "the consumer makes no progress"


def test_without_redis_the_worker_is_alive_but_not_ready(own_project: Project) -> None:
    project = own_project
    worker = project.start_ready()
    project.server.kill()
    assert "cannot use Redis" in until(lambda: project.problem(ready=True), "unreadiness")
    assert project.problem() == ""
    project.server.start()
    until(lambda: not project.problem(ready=True), "readiness")
    project.server.kill()
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0
    assert not project.health.exists()


def test_a_worker_started_without_redis_waits_and_can_be_stopped(own_project: Project) -> None:
    project = own_project
    project.server.kill()
    worker = project.start("run")
    until(lambda: project.health.exists() and not project.problem(), "a start")
    assert project.problem(ready=True)
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0
    assert not project.health.exists()
    second = project.start("run")
    until(lambda: project.health.exists() and not project.problem(), "a start")
    project.server.start()
    until(lambda: not project.problem(ready=True), "readiness")
    published(project, 1)
    until(lambda: project.redis.hget("done", "1"), "the work")
    assert second.process.poll() is None


# --- plain arq


def plain_arq_ready(project: Project, **env: str) -> None:
    project.start_arq(**env)
    until(lambda: project.health.exists() and not project.problem(ready=True), "a start")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_plain_arq_has_the_same_health_file(project: Project, signum: int) -> None:
    plain_arq_ready(project)
    project.running[-1].send(signum)
    project.running[-1].ended()
    assert not project.health.exists()


def test_plain_arq_whose_startup_fails_leaves_no_health_file(project: Project) -> None:
    failed = project.start_arq(TINY_BREAK="startup")
    assert failed.ended() == 1
    assert not project.health.exists()


def test_plain_arq_that_ends_while_redis_is_unavailable_leaves_no_health_file(
    own_project: Project,
) -> None:
    project = own_project
    plain_arq_ready(project, TINY_BREAK="impatient")
    project.server.kill()
    until(lambda: project.problem(ready=True), "unreadiness")
    project.running[-1].send(signal.SIGTERM)
    project.running[-1].ended()
    assert not project.health.exists()


def test_a_stale_file_does_not_make_plain_arq_alive_that_waits_for_redis(
    own_project: Project,
) -> None:
    project = own_project
    worker = project.start_ready()
    worker.send(signal.SIGKILL)
    worker.ended()
    project.server.kill()
    waiting = project.start_arq()
    until(lambda: "redis connection error" in waiting.output, "an attempt to connect")
    assert "is gone" in project.problem()


def test_the_probe_needs_no_module_of_the_project(tmp_path: Path) -> None:
    copy = tmp_path / "probe.py"
    copy.write_bytes(PROBE.read_bytes())
    found = subprocess.run(
        [sys.executable, "-I", "-S", str(copy), "live", str(tmp_path / "none")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stderr) == (1, "")
