"""``workers`` shows what each worker does, and which of them is slow."""

import json
from typing import Any

import pytest
from processkit import Project, until
from workerbase.broker import keys
from workerbase.console.records import WorkerRecord, slow_workers
from workerbase.engine.failure_record import DATA, TYPE


def shown(project: Project) -> dict[str, dict[str, Any]]:
    done = project.run("workers", "--json")
    assert done.returncode == 0, done.stderr
    return {worker["name"]: worker for worker in json.loads(done.stdout)}


def publish(project: Project, *numbers: int, seconds: float = 0) -> None:
    for number in numbers:
        data = json.dumps({"number": number, "seconds": seconds})
        project.redis.xadd("orders", {TYPE: "order", DATA: data})


def test_a_slow_worker_is_told_from_the_others(project: Project) -> None:
    project.start_ready(TINY_HISTORY="1", WORKER_CONCURRENCY="20")
    publish(project, *range(20), seconds=2)
    until(lambda: project.redis.hlen("done") == 20, "the slow messages")
    until(lambda: shown(project), "the first description")
    (name,) = shown(project)
    health = str(project.folder / "healthy-too")
    project.start("run", TINY_HISTORY="1", WORKER_HEALTH_FILE=health)
    until(lambda: len(shown(project)) == 2, "the second worker")
    publish(project, *range(20, 120))
    until(lambda: all(worker["recent"] for worker in shown(project).values()), "work of both")

    found = shown(project)
    (other,) = found.keys() - {name}
    assert (found[name]["state"], found[other]["state"]) == ("slow", "alive")
    assert found[name]["mean_s"] > found[other]["mean_s"]
    table = project.run("workers").stdout
    assert "2 workers" in table
    assert "slow" in table


def test_what_has_been_in_work_longest_is_shown(project: Project) -> None:
    project.start_ready(TINY_HISTORY="1")
    publish(project, 1, seconds=30)

    def running() -> list[dict[str, Any]]:
        return [item for worker in shown(project).values() for item in worker["running"]]

    until(running, "the message")
    # Another one died a minute ago: nobody writes its description again, or removes it.
    records = keys.workers("arq:queue")
    ((_, text),) = project.redis.hgetall(records).items()
    died = json.loads(text)
    died["at"] -= 60
    project.redis.hset(records, "zz-died", json.dumps(died))
    (item,) = shown(project).pop("zz-died")["running"]
    assert (item["name"], item["attempt"]) == ("order", 1)
    alive, silent = project.run("workers", COLUMNS="200").stdout.splitlines()[-2:]
    assert alive.split()[1:3] == ["alive", "1"]
    assert "silent for 1m" in silent
    assert item["id"] in project.run("workers", COLUMNS="200").stdout


def test_without_a_worker_it_says_where_else_to_look(project: Project) -> None:
    assert "no worker writes the history; `status`" in project.run("workers").stdout


@pytest.mark.parametrize(
    ("means", "slow"),
    [
        ([], []),
        ([9.0], []),
        ([1.0, 1.9], []),
        ([1.0, 2.1], [2.1]),
        ([None, 1.0, 2.1], [2.1]),
        ([0.9, 1.0, 1.1, 5.0, 9.0], [5.0, 9.0]),
    ],
)
def test_slow_is_more_than_twice_the_median(means: list[float | None], slow: list[float]) -> None:
    alive = [
        WorkerRecord(f"worker-{number}", 0.0, 0.0, 0, (), {}, 1, mean, breaker_open=False)
        for number, mean in enumerate(means)
    ]
    assert [worker.mean_s for worker in slow_workers(alive)] == slow
