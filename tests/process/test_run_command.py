"""``run``: what signals do to work that is under way."""

import re
import signal
import time

import pytest
from processkit import Project, until
from workerbase.process.runner import SAME_SIGNAL_S


def publish(project: Project, data: str) -> None:
    done = project.run("publish", "order", "--json", data)
    assert done.returncode == 0, done.stderr


def test_it_runs_on_uvloop_where_that_is_installed(project: Project) -> None:
    worker = project.start_ready()
    assert "started on uvloop" in worker.output


def test_without_uvloop_it_runs_on_asyncio(project: Project) -> None:
    (project.folder / "uvloop.py").write_text("raise ImportError('not here')")
    path = f"{project.folder}:{project.variables['PYTHONPATH']}"
    worker = project.start_ready(PYTHONPATH=path)
    assert "started on asyncio" in worker.output


@pytest.mark.parametrize("jobs", ["leased", "arq"])
def test_what_a_handler_or_task_logs_names_its_run(project: Project, jobs: str) -> None:
    publish(project, '{"number": 1}')
    assert project.run("enqueue", "add", "2", "--id", "sum-2").returncode == 0
    worker = project.start_ready(TINY_JOBS=jobs, WORKER_LOG_LEVEL="info")
    until(lambda: project.redis.hget("done", "1"), "the message")
    until(lambda: project.redis.hget("sums", "2"), "the job")
    until(lambda: "adding" in worker.output, "the log of the job")
    assert re.search(r"handling \[order [0-9a-f]+, attempt 1\]\n", worker.output)
    assert "adding [add sum-2, attempt 1]\n" in worker.output
    # What the base logs about them has their ids already.
    assert worker.output.count("attempt 1]") == 2


@pytest.mark.parametrize("jobs", ["leased", "arq"])
def test_a_signal_lets_running_work_finish_and_leaves_the_rest(project: Project, jobs: str) -> None:
    publish(project, '{"number": 1, "seconds": 2}')
    publish(project, '{"number": 2}')
    assert project.run("enqueue", "add", "2", "right=3", "seconds=2").returncode == 0
    worker = project.start_ready(WORKER_CONCURRENCY="1", TINY_JOBS=jobs)
    until(lambda: project.redis.hget("begun", "1"), "a begun message")
    until(lambda: project.redis.hget("begun", "add"), "a begun job")
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0
    assert project.redis.hget("done", "1") == "1"
    assert project.redis.hget("sums", "2") == "5"
    assert project.redis.hget("begun", "2") is None
    project.start_ready()
    until(lambda: project.redis.hget("done", "2"), "the rest")
    assert project.redis.hgetall("done") == {"1": "1", "2": "1"}


def test_a_drain_that_takes_too_long_is_cut_and_nothing_is_lost(project: Project) -> None:
    worker = project.start_ready(WORKER_DRAIN_TIMEOUT="0.2")
    publish(project, '{"number": 1, "seconds": 2}')
    until(lambda: project.redis.hget("begun", "1"), "a begun message")
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0
    assert project.redis.hget("done", "1") is None
    project.start_ready()
    until(lambda: project.redis.hget("done", "1"), "the message")


def test_a_second_signal_exits_at_once_and_the_work_is_done_again(project: Project) -> None:
    worker = project.start_ready()
    publish(project, '{"number": 1, "seconds": 5}')
    until(lambda: project.redis.hget("begun", "1"), "a begun message")
    worker.send(signal.SIGTERM)
    until(lambda: "draining" in project.problem(ready=True), "a drain")
    assert project.problem() == ""
    time.sleep(SAME_SIGNAL_S)
    worker.send(signal.SIGTERM)
    assert worker.ended() == 128 + signal.SIGTERM
    assert not project.health.exists()
    assert project.redis.hget("done", "1") is None
    project.start_ready()
    until(lambda: project.redis.hget("done", "1"), "the message")


def test_ctrl_c_twice_exits_at_once(project: Project) -> None:
    worker = project.start_ready()
    publish(project, '{"number": 1, "seconds": 5}')
    until(lambda: project.redis.hget("begun", "1"), "a begun message")
    worker.send(signal.SIGINT)
    until(lambda: "draining" in project.problem(ready=True), "a drain")
    worker.send(signal.SIGINT)
    assert worker.ended() == 128 + signal.SIGINT


def test_the_same_sigterm_to_process_and_group_still_drains(project: Project) -> None:
    worker = project.start_ready()
    publish(project, '{"number": 1, "seconds": 1}')
    until(lambda: project.redis.hget("begun", "1"), "a begun message")
    worker.send(signal.SIGTERM)
    until(lambda: "draining" in project.problem(ready=True), "a drain")
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0
    assert project.redis.hget("done", "1") is not None


def test_a_misspelt_variable_is_reported_at_the_start(project: Project) -> None:
    worker = project.start_ready(WORKER_MAX_JOB="3")
    assert "WORKER_MAX_JOB is not a setting; did you mean WORKER_MAX_JOBS?" in worker.output


def test_a_message_is_retried_after_its_backoff_and_not_with_the_next_poll(
    project: Project,
) -> None:
    worker = project.start_ready(
        WORKER_POLL_DELAY="3600", WORKER_LEASE_TIMEOUT="3600", WORKER_MAX_RETRIES="3"
    )
    publish(project, '{"number": 1, "how": "fails"}')
    until(lambda: project.redis.xlen("orders:dlq"), "its dead letter")
    assert project.redis.hget("begun", "1") == "3"
    assert "retried in 0.0 s after attempt 1 (ValueError: order 1 failed" in worker.output
    said = "dead-lettered after attempt 3 (ValueError: order 1 failed"
    until(lambda: said in worker.output, "it is logged, after it is written")
