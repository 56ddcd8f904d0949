"""``dlq``: examine dead letters, send them back, delete them, in any number."""

import json
import os
import pty
import signal
import sys
import time
from typing import Any

import pytest
import quick_python
from processkit import Project, until

MANY = 20_000


def fill(project: Project, count: int, **more: object) -> None:
    """Put dead letters into the DLQ, every tenth with another error."""
    for first in range(0, count, 2000):
        pipe = project.redis.pipeline(transaction=False)
        for number in range(first, min(first + 2000, count)):
            permanent = number % 10 == 0
            fields = {
                "type": "order",
                "data": json.dumps({"number": number}),
                "_id": f"message-{number}",
                "_reason": "permanent" if permanent else "retries",
                "_error_type": "PermanentError" if permanent else "ValueError",
                "_error": f"order {number} [/red]",
                "_traceback": "Traceback: here",
                "_failed_at": "2026-01-01T00:00:00.000+00:00",
                "_attempts": "5",
                "_original_stream": "orders",
                "_original_id": f"1-{number}",
            }
            pipe.xadd("orders:dlq", {**fields, **more})
        pipe.execute()


def answer(project: Project, *arguments: str) -> Any:
    done = project.run("dlq", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def ids(project: Project, stream: str) -> list[str]:
    return [fields["_id"] for _, fields in project.redis.xrange(stream)]


def test_dead_letters_of_a_worker_are_grouped_shown_and_sent_back(project: Project) -> None:
    for number, how in ((1, "fails"), (2, "fails"), (3, "refused"), (4, "fine")):
        project.redis.xadd(
            "orders", {"type": "order", "data": json.dumps({"number": number, "how": how})}
        )
    worker = project.start_ready(WORKER_MAX_RETRIES="2")
    until(lambda: project.redis.xlen("orders:dlq") == 3, "three dead letters")
    worker.send(signal.SIGTERM)
    worker.ended()

    many, one = answer(project, "ls")["orders:dlq"]
    assert (many["count"], many["reason"]) == (2, "retries")
    assert many["error"].startswith("ValueError: order ")
    assert many["where"] == "tinyworker.worker:on_order"
    assert many["oldest"] <= many["newest"] <= time.time()
    assert (one["count"], one["reason"], one["event_type"]) == (1, "permanent", "order")
    table = project.run("dlq", "ls", COLUMNS="80").stdout
    assert all(len(line) <= 80 for line in table.splitlines())
    assert many["fingerprint"] in table

    (entry,) = answer(project, "show", "--type", "order", "--reason", "permanent")
    assert entry["attempts"] == 1
    assert entry["error"] == "PermanentError: order 3 refused"
    assert "in on_order" in entry["traceback"]
    assert entry["original_stream"] == "orders"
    assert json.loads(entry["data"])["number"] == 3
    text = project.run("dlq", "show", "--error", many["fingerprint"]).stdout
    assert text.count("ValueError: order") == 4  # error and end of the traceback, twice
    assert "failed [/red]" in text

    before = {e["message_id"]: e for e in answer(project, "show")}
    assert answer(project, "replay", "--dry-run") == {"dry_run": True, "replayed": 3}
    assert project.redis.xlen("orders:dlq") == 3
    assert answer(project, "replay", "--error", "REFUSED") == {"dry_run": False, "replayed": 1}
    project.start_ready()
    until(lambda: project.redis.xlen("orders:dlq") == 3, "the dead letter again")
    again = {e["message_id"]: e for e in answer(project, "show")}
    assert again.keys() == before.keys()
    replayed = again[entry["message_id"]]
    assert replayed["original_id"] == entry["original_id"]
    assert replayed["first_failed_at"] == entry["first_failed_at"]
    assert (replayed["replays"], replayed["attempts"]) == (1, 2)


def test_what_is_replayed_keeps_its_id_its_attempts_and_its_traceback(project: Project) -> None:
    fill(project, 1)
    assert answer(project, "replay", "--yes")["replayed"] == 1
    ((_, fields),) = project.redis.xrange("orders")
    assert fields["_id"] == "message-0"
    assert fields["_original_id"] == "1-0"
    assert fields["_attempts"] == "5"
    assert fields["_replays"] == "1"
    assert fields["_retries"] == "0"
    assert fields["_traceback"] == "Traceback: here"


def test_filters_choose_by_error_reason_type_age_and_id(in_process: Any, project: Project) -> None:
    fill(project, 20)
    entry_ids = [entry_id for entry_id, _ in project.redis.xrange("orders:dlq")]
    # Two entries that are an hour older come first.
    project.redis.delete("orders:dlq")
    hour_ago = int(time.time() * 1000) - 3_600_000
    for number in range(2):
        project.redis.xadd(
            "orders:dlq", {"type": "old", "_reason": "poison"}, f"{hour_ago}-{number}"
        )
    fill(project, 20)
    entry_ids = [entry_id for entry_id, _ in project.redis.xrange("orders:dlq")]
    for options, count in (
        ((), 22),
        (("--type", "old"), 2),
        (("--reason", "permanent"), 2),
        (("--error", "permanenterror"), 2),
        (("--error", "order 1"), 11),
        (("--older-than", "30m"), 2),
        (("--newer-than", "30m"), 20),
        (("--older-than", "30m", "--newer-than", "30m"), 0),
        (("--id", entry_ids[5]), 1),
        (("--type", "order", "--reason", "poison"), 0),
        (("--stream", "orders"), 22),
        (("--stream", "orders:dlq"), 22),
        (("--parked",), 0),
    ):
        for command in ("replay", "purge"):
            found = in_process("dlq", command, "--dry-run", "--json", *options)
            verb = {"replay": "replayed", "purge": "purged"}[command]
            assert json.loads(found.stdout).get(verb, 0) == count, options
        shown = in_process("dlq", "show", "--json", "--limit", "99", *options)
        assert len(json.loads(shown.stdout)) == count, options
        groups = json.loads(in_process("dlq", "ls", "--json", *options).stdout)
        assert sum(g["count"] for found in groups.values() for g in found) == count, options
    assert [entry_id for entry_id, _ in project.redis.xrange("orders:dlq")] == entry_ids


def test_limit_rate_and_cap_hold_back(project: Project) -> None:
    fill(project, 10)
    fill(project, 2, _replays="3")
    start = time.monotonic()
    assert answer(project, "replay", "--yes", "--limit", "4", "--rate", "10")["replayed"] == 4
    assert time.monotonic() - start > 0.3
    assert project.redis.xlen("orders:dlq") == 8
    assert answer(project, "replay", "--dry-run") == {"dry_run": True, "replayed": 6, "capped": 2}
    text = project.run("dlq", "replay", "--yes").stdout
    assert text == "6 replayed\n2 left: replayed too often (--max-replays)\n"
    assert answer(project, "replay", "--yes", "--max-replays", "4")["replayed"] == 2
    assert project.redis.xlen("orders:dlq") == 0
    assert len(ids(project, "orders")) == 12


def test_purge_asks_first_and_deletes_only_what_is_meant(project: Project) -> None:
    fill(project, 20)
    refused = project.run("dlq", "purge", stdin="n\n")
    assert refused.returncode == 1
    assert "Delete 20 messages for good?" in refused.stdout
    assert project.redis.xlen("orders:dlq") == 20
    assert project.run("dlq", "purge", "--reason", "poison").stdout == "0 purged\n"
    assert project.run("dlq", "purge", "--dry-run").stdout == "20 would be purged\n"
    assert answer(project, "purge", "--yes", "--reason", "permanent")["purged"] == 2
    assert project.redis.xlen("orders:dlq") == 18
    assert project.run("dlq", "purge", stdin="y\n").stdout.endswith("18 purged\n")
    assert project.redis.exists("orders:dlq", "orders") in (0, 1)
    assert project.redis.xlen("orders:dlq") == 0


def test_parked_events_can_be_sent_back_once_there_is_a_handler(project: Project) -> None:
    project.redis.xadd("orders:parked", {"type": "later", "_id": "none", "data": "{}"})
    project.redis.xadd("orders:parked", {"type": "order", "_id": "one", "data": "{}"})
    for dry_run in (("--dry-run",), ()):
        found = answer(project, "replay", "--parked", "--yes", *dry_run)
        assert found == {"dry_run": bool(dry_run), "replayed": 1, "unknown": 1}
    assert ids(project, "orders") == ["one"]
    assert ids(project, "orders:parked") == ["none"]
    left = project.run("dlq", "replay", "--parked", "--yes").stdout
    assert left == "0 replayed\n1 left: the worker has no handler for their type\n"


def test_fields_of_a_message_that_is_not_an_event_are_shown(project: Project) -> None:
    project.redis.xadd("orders:dlq", {"order": "42", "_reason": "invalid", "_error": "no type"})
    (entry,) = answer(project, "show")
    assert entry["fields"] == {"order": "42"}
    assert "{'order': '42'}" in project.run("dlq", "show").stdout
    fill(project, 1)
    text = project.run("dlq", "show", "--reason", "permanent").stdout
    assert "message-0" in text
    assert "fields" not in text


def test_in_a_terminal_a_replay_of_everything_asks_first(project: Project) -> None:
    def typed(answer: bytes, *options: str) -> str:
        ours, theirs = pty.openpty()
        os.write(ours, answer)
        with os.fdopen(theirs) as terminal:
            done = quick_python.run(
                [sys.executable, "-m", "tinyworker", "dlq", "replay", *options],
                cwd=project.folder,
                env=project.environment({}),
                stdin=terminal,
                capture_output=True,
                text=True,
                check=False,
            )
        os.close(ours)
        return done.stdout + done.stderr

    fill(project, 3)
    assert "Send 3 messages back?" in typed(b"n\n")
    assert project.redis.xlen("orders:dlq") == 3
    assert typed(b"", "--dry-run") == "3 would be replayed\n"
    assert typed(b"", "--reason", "permanent") == "1 replayed\n"
    assert typed(b"y\n").endswith("2 replayed\n")
    assert typed(b"", "--yes") == "0 replayed\n"


def test_dead_letters_of_a_stream_without_a_handler_are_found(project: Project) -> None:
    project.redis.xadd("former:dlq", {"type": "order", "_id": "one"})
    assert answer(project, "replay", "--yes", "--stream", "former")["replayed"] == 1
    assert ids(project, "former") == ["one"]


def test_a_replay_that_is_killed_and_repeated_neither_loses_nor_doubles(project: Project) -> None:
    fill(project, MANY)
    replay = project.start("dlq", "replay", "--yes")
    until(lambda: project.redis.xlen("orders") > 500, "some replays")
    replay.send(signal.SIGKILL)
    assert replay.ended() == -signal.SIGKILL
    done = project.redis.xlen("orders")
    assert 500 < done < MANY
    # Two at once do not come into each other's way either.
    both = [project.start("dlq", "replay", "--yes", "--json") for _ in range(2)]
    assert [one.ended() for one in both] == [0, 0]
    found = [json.loads(one.output) for one in both]
    assert sum(one["replayed"] for one in found) == MANY - done
    assert project.redis.xlen("orders:dlq") == 0
    sent = ids(project, "orders")
    assert len(sent) == len(set(sent)) == MANY


def test_a_job_that_the_worker_cannot_read_is_left_and_reported(project: Project) -> None:
    letter = {"type": "", "data": "{}", "_id": "bad", "_job": "no JSON", "_reason": "invalid"}
    project.redis.xadd("arq:queue:dlq", letter)
    assert answer(project, "replay", "--dry-run") == {
        "dry_run": True, "replayed": 0, "unreadable": 1
    }  # fmt: skip
    done = project.run("dlq", "replay", "--yes")
    assert done.returncode == 0
    left = "1 left: not a job that the worker's job_deserializer can read"
    assert f"0 replayed\n{left}\n" in done.stdout
    assert project.redis.xlen("arq:queue:dlq") == 1


@pytest.mark.parametrize("command", [("dlq", "ls"), ("dlq", "show"), ("dlq", "show", "--json")])
def test_a_payload_cannot_control_the_terminal_of_the_reader(
    in_process: Any, project: Project, command: tuple[str, ...]
) -> None:
    hostile = "\x1b]52;c;cm0gLXJmIC8=\x07 \x9b31m \x1b[2J\r \u202e \u2066"
    fields = {"type": hostile, "data": hostile, "_error": hostile, "_traceback": hostile}
    project.redis.xadd("orders:dlq", fields)

    shown = in_process(*command).output

    assert "52;c;" in shown
    assert not set(shown) & {"\x1b", "\x07", "\x9b", "\r", "\u202e", "\u2066"}
    if "--json" in command:
        assert json.loads(shown)[0]["data"] == hostile


@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["latin-1", "ASCII"],
)
def test_a_terminal_that_is_not_utf_8_shows_what_it_lacks_escaped(
    project: Project, env: dict[str, str]
) -> None:
    project.redis.xadd(
        "orders:dlq", {"type": "order", "data": "\U0001f600", "_error": "\U0001f600"}
    )
    for command in (("dlq", "ls"), ("dlq", "show"), ("dlq", "show", "--json")):
        done = project.run(*command, **env)
        assert done.returncode == 0, done.stderr
        if "--json" in command:
            assert json.loads(done.stdout)[0]["data"] == "\U0001f600"
        else:
            assert r"\U0001f600" in done.stdout


def test_what_is_not_a_job_is_not_sent_to_the_queue(project: Project) -> None:
    project.redis.xadd("arq:queue:dlq", {"a": "b"})
    assert answer(project, "replay", "--yes", "--stream", "arq:queue")["unreadable"] == 1
    assert project.redis.xlen("arq:queue:dlq") == 1
    assert not project.redis.exists("arq:queue")
