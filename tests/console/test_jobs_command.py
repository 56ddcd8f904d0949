"""``jobs``, ``schedule`` and ``find``: what is where, and changed one by one."""

import json
from typing import Any

import pytest
from processkit import Project


def run(in_process: Any, *arguments: str) -> Any:
    done = in_process(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


def test_jobs_are_listed_shown_and_changed(in_process: Any, project: Project) -> None:
    for job_id, delay in (("now", "0"), ("later", "1h"), ("tomorrow", "1d")):
        in_process("enqueue", "add", "1", "right=2", "--in", delay, "--id", job_id)

    listed = run(in_process, "jobs", "ls")
    assert {state: [job["id"] for job in found["jobs"]] for state, found in listed.items()} == {
        "due": ["now"],
        "running": [],
        "scheduled": ["later", "tomorrow"],
        "finished": [],
    }
    assert "args" not in listed["due"]["jobs"][0]
    shown = run(in_process, "jobs", "show", "later")
    assert (shown["function"], shown["args"], shown["kwargs"]) == ("add", [1], {"right": 2})

    assert run(in_process, "jobs", "run-now", "later") == {"id": "later", "result": "queued"}
    assert run(in_process, "jobs", "cancel", "tomorrow")["result"] == "cancelled"
    assert run(in_process, "jobs", "retry", "tomorrow")["result"] == "queued"
    text = in_process("jobs", "ls", "--state", "due").output
    assert "due: 3" in text
    assert all(name in text for name in ("now", "later", "tomorrow", "add"))
    assert "scheduled: none" in in_process("jobs", "ls", "--state", "scheduled").output


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("show", "x"), "there is no job 'x'"),
        (("cancel", "x"), "x does not wait or run"),
        (("run-now", "x"), "x does not wait"),
        (("retry", "x"), "x has left no result"),
        (("cancel", "requeue:orders:1-1"), "puts a message back, which would be lost"),
    ],
)
def test_what_is_not_done_is_an_error_with_its_reason(
    in_process: Any, command: tuple[str, ...], reason: str
) -> None:
    done = in_process("jobs", *command)
    assert (done.exit_code, reason in done.output) == (1, True), done.output


def test_an_order_is_found_by_its_number(in_process: Any, project: Project) -> None:
    in_process("publish", "order", "--json", '{"number": 4711}')
    project.redis.xadd(
        "orders:dlq", {"type": "order", "data": '{"number":4711}', "_error_type": "ValueError",
                       "_error": "[/red] no \x1b[31mstock", "_id": "m-1"},
    )  # fmt: skip

    found = run(in_process, "find", "4711")
    assert [(one["place"], one["in_payload"]) for one in found["sightings"]] == [
        ("stream", True),
        ("dead_letter", True),
    ]
    text = in_process("find", "m-1", env={"COLUMNS": "200"}).output
    assert "ValueError: [/red] no \\x1b[31mstock" in text
    nothing = in_process("find", "nowhere")
    assert (nothing.exit_code, "nothing has the id 'nowhere'" in nothing.output) == (1, True)


def test_a_worker_without_cron_jobs_says_so(in_process: Any) -> None:
    assert in_process("schedule").output == "the worker has no cron jobs\n"
    assert run(in_process, "schedule") == []
