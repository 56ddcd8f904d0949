"""``status``: what waits, what is in work, what failed."""

import json

from processkit import Project


def known(source: dict[str, object]) -> dict[str, object]:
    """Return what applies to a source."""
    return {name: value for name, value in source.items() if value is not None}


def test_status_shows_where_messages_and_jobs_are(project: Project) -> None:
    redis = project.redis
    for number in range(5):
        redis.xadd("orders", {"type": "order", "data": json.dumps({"number": number})})
    redis.xgroup_create("orders", "workers", "0")
    redis.xreadgroup("workers", "somebody", {"orders": ">"}, count=2)
    redis.xadd("orders:dlq", {"type": "order"})
    for _ in range(1200):
        redis.xadd("orders:parked", {"type": "later"})
    redis.zadd("arq:queue", {"due": 1, "later": 9e15})
    found = json.loads(project.run("status", "--json").stdout)
    assert found["redis"] == f"127.0.0.1:{project.server.port}/0"
    assert found["server"] == project.server.version
    stream, queue = found["sources"]
    assert known(queue) == {
        "name": "arq:queue",
        "kind": "queue",
        "waiting": 1,
        "in_work": 0,
        "later": 1,
        "dead_letters": 0,
        "missing": "",
        "alive": False,
    }
    assert found["worker_alive"] is True  # its group was read just now
    assert found["warnings"] == []
    assert min(stream.pop("oldest_in_work_s"), stream.pop("oldest_waiting_s")) >= 0
    assert known(stream) == {
        "name": "orders",
        "kind": "stream",
        "length": 5,
        "waiting": 3,
        "in_work": 2,
        "delivered": 2,
        "consumers": 1,
        "dead_letters": 1,
        "parked": 1200,
        "missing": "",
        "alive": True,
    }
    table = project.run("status", COLUMNS="80").stdout
    assert all(len(line) <= 80 for line in table.splitlines())
    row = next(line.split() for line in table.splitlines() if line.startswith("orders"))
    assert row[:4] == ["orders", "5", "3", "2"]
    assert row[5:] == ["1", "1,200", "1"]
    assert "consumers" in table


def test_status_of_an_empty_redis_is_all_zeros_and_writes_nothing(project: Project) -> None:
    found = project.run("status")
    assert found.returncode == 0, found.stderr
    assert "warning: no worker is alive" in found.stdout
    assert "warning: orders: the stream does not exist yet" in found.stdout
    assert project.redis.keys() == []
