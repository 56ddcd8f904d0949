"""``groups``, and what KEDA then reads: the same commands as its scalers send."""

from typing import Any

from processkit import Project, until

GROUP = ("XPENDING", "orders", "workers")
QUEUE_LENGTH = """
local kind = redis.call('type', KEYS[1]).ok
return redis.call(kind == 'zset' and 'zcard' or 'llen', KEYS[1])
"""
"""Of KEDA's ``redis`` trigger: a missing key is an empty list."""


def lag(project: Project) -> Any:
    """Read what KEDA's ``lagCount`` reads; it takes a missing number for zero."""
    (group,) = project.redis.xinfo_groups("orders")
    return group["lag"]


def test_groups_are_created_once_and_what_was_published_before_is_work(project: Project) -> None:
    project.run("publish", "order", "--json", '{"number": 1}', "--count", "3")

    first = project.run("groups")
    again = project.run("groups")

    assert (first.returncode, first.stdout) == (0, "orders: created the group workers\n")
    assert (again.returncode, again.stdout) == (0, "orders: found the group workers\n")
    assert lag(project) == 3


def test_an_autoscaler_sees_work_come_and_go(project: Project) -> None:
    project.run("groups")
    assert (lag(project), project.redis.execute_command(*GROUP)["pending"]) == (0, 0)
    assert project.redis.eval(QUEUE_LENGTH, 1, "arq:queue") == 0

    project.run("publish", "order", "--json", '{"number": 1, "seconds": 2}', "--count", "3")
    project.run("enqueue", "add", "1", "--in", "10m")
    assert lag(project) == 3
    assert project.redis.eval(QUEUE_LENGTH, 1, "arq:queue") == 1

    project.start_ready()
    until(lambda: project.redis.execute_command(*GROUP)["pending"] == 3, "the work's start")
    assert lag(project) == 0
    until(lambda: project.redis.hget("done", "1") == "3", "the work")
    until(lambda: project.redis.execute_command(*GROUP)["pending"] == 0, "the acknowledgements")
    # Handled entries are trimmed, which must not make the lag unknown.
    until(lambda: project.redis.xlen("orders") == 0, "the trimming")
    assert lag(project) == 0


def test_without_redis_groups_fails_so_that_it_is_run_again(own_project: Project) -> None:
    own_project.server.kill()

    found = own_project.run("groups")

    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith("Error: Redis at 127.0.0.1:")
