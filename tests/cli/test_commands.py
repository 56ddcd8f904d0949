"""``publish`` and ``enqueue``, and what any command does with bad input or without Redis."""

import json
from collections.abc import Callable

import pytest
from click.testing import Result
from processkit import Project, until


def test_publish_makes_messages_that_the_worker_handles(project: Project) -> None:
    published = project.run("publish", "order", "--json", "-", "--count", "3", stdin='{"number":7}')
    assert published.returncode == 0, published.stderr
    assert published.stdout.startswith("published 3 order to orders, last entry ")
    entries = project.redis.xrange("orders")
    assert len({fields["_id"] for _, fields in entries}) == 3
    project.start_ready()
    until(lambda: project.redis.hget("done", "7") == "3", "the work")


def test_enqueue_makes_a_job_once_with_an_id(project: Project) -> None:
    first = project.run("enqueue", "add", "40", "right=2", "--id", "sum")
    assert first.stdout == "enqueued add as job sum\n"
    again = project.run("enqueue", "add", "40", "--id", "sum")
    assert (again.returncode, again.stderr) == (
        1,
        "Error: a job with the id 'sum' exists already\n",
    )
    assert project.run("enqueue", "add", "1", "--in", "10m").returncode == 0
    project.start_ready()
    until(lambda: project.redis.hget("sums", "40") == "42", "the job")
    status = json.loads(project.run("status", "--json").stdout)
    queue = status["sources"][-1]
    assert (queue["name"], queue["waiting"], queue["later"]) == ("arq:queue", 0, 1)


@pytest.mark.parametrize(
    ("arguments", "args", "kwargs"),
    [
        (["-5", "-.5e3"], [-5, "-.5e3"], {}),
        (["-5", "--id", "a"], [-5], {}),
        (["dG9rZW4="], ["dG9rZW4="], {}),
        (["abc==", "right=x=y"], ["abc=="], {"right": "x=y"}),
        (['"a=b"', "right="], ["a=b"], {"right": ""}),
        (["007", "NaN"], ["007", "NaN"], {}),
        (["1e5", "null"], [100000.0, None], {}),
        (["--", "-x", "--y"], ["-x", "--y"], {}),
    ],
)
def test_an_argument_may_look_like_an_option_a_pair_or_a_number(
    in_process: Callable[..., Result],
    project: Project,
    arguments: list[str],
    args: list[object],
    kwargs: dict[str, object],
) -> None:
    found = in_process("enqueue", "add", *arguments)
    assert found.exit_code == 0, found.output
    (key,) = project.redis.keys("arq:job:*")
    job = json.loads(project.redis.get(key))
    assert (job["a"], job["k"]) == (args, kwargs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("publish", "ordr"), "no handler knows the event 'ordr'; did you mean order?"),
        (("publish", "xyz"), "no handler knows the event 'xyz'; there are: order"),
        (("publish", "order"), "order: number: Field required"),
        (("publish", "order", "--json", "{"), "--json is not JSON"),
        (("publish", "order", "--json", "[1]"), "order: payload: Input should be"),
        (
            ("publish", "order", "--json", '{"number": 1, "secnds": 2}'),
            "order has no field 'secnds'; did you mean seconds?",
        ),
        (("publish", "order", "--json", '{"number": 1}', "--count", "0"), "x>=1"),
        (("enqueue", "ad", "1"), "the worker has no task 'ad'; did you mean add?"),
        (("enqueue", "add"), "missing a required argument: 'left'"),
        (("enqueue", "add", "1", "rigt=2"), "add has no parameter 'rigt'; did you mean right?"),
        (("enqueue", "add", "1", "x=y"), """is written as JSON: '"x=y"'"""),
        (("enqueue", "add", "--idd", "1", "1"), "--idd"),
        (("enqueue", "add", "-x", "1"), "No such option"),
        (("enqueue", "add", "--in", "-5", "1"), "'-5' is not a duration"),
        (("enqueue", "add", "1", "_job_id=2"), "add has no parameter '_job_id'"),
        (("enqueue", "add", "1", "--in", "soon"), "'soon' is not a duration; write 30s, 5m, 2h"),
        (("statuss",), "No such command 'statuss'"),
        (("status", "--jsn"), "No such option"),
        (("status", "--watch"), "--watch requires a terminal; without one, omit it"),
        (("status", "--watch", "--json"), "--watch draws a screen; use --json without it"),
        (("status", "--every", "5"), "--every requires --watch"),
        (("status", "--watch", "--every", "0"), "x>=0.2"),
        (("dlq", "ls", "--stream", "ordrs"), "'ordrs' is not a stream or queue of this worker"),
        (("dlq", "ls", "--reason", "bad"), "'bad' is not one of"),
        (("dlq", "show", "--id", "7"), "no dead letter has the id '7'; it was replayed"),
        (("dlq", "show", "--id", "-"), "there is no id on standard input"),
        (("dlq", "ls", "--type", "ordr"), "has the type 'ordr'; did you mean order?"),
        (("dlq", "ls", "--parked", "--error", "x"), "no parked event has the error 'x'"),
        (("dlq", "ls", "--where", "order_id"), "'order_id' is not of the form field=value"),
        (("dlq", "ls", "--since", "noon"), "'noon' is not a time; write 2026-11-25"),
        (("dlq", "replay"), "without a filter this replays everything: add --yes"),
        (("dlq", "replay", "--rate", "0"), "x>0"),
        (("dlq", "replay", "--max-replays", "0"), "x>=1"),
        (("chaos", "--kill", "8"), "0<=x<=1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_reported_and_changes_nothing(
    in_process: Callable[..., Result], project: Project, arguments: tuple[str, ...], message: str
) -> None:
    found = in_process(*arguments)
    assert found.exit_code == 2, found.output
    assert message in found.output
    assert "Traceback" not in found.output
    assert project.redis.keys() == []


def test_without_redis_a_command_fails_with_one_line(own_project: Project) -> None:
    own_project.server.kill()
    for arguments in (("status",), ("publish", "order", "--json", '{"number": 1}'), ("dlq", "ls")):
        found = own_project.run(*arguments)
        assert (found.returncode, found.stdout) == (1, "")
        assert found.stderr.startswith("Error: Redis at 127.0.0.1:")
        assert found.stderr.count("\n") == 1
