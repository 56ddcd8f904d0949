"""Failures are recorded in the job itself, where plain arq does not look, or not at all."""

import json
import pickle

import pytest
from arq.jobs import deserialize_job_raw, serialize_job
from workerbase.broker import codec
from workerbase.broker.job_record import FailedJob, JobSerializer
from workerbase.engine.failure_record import MAX_HISTORY

JSON = JobSerializer.from_arq(codec.dumps, codec.loads)
PICKLE = JobSerializer.from_arq(None, None)


def failed(
    serializer: JobSerializer = JSON, attempt: int = 1, job: bytes | None = None
) -> FailedJob:
    written = serialize_job("send", (1,), {"to": "a"}, None, 1_000, serializer=serializer.dumps)
    return FailedJob("j1", "send", (1,), {"to": "a"}, attempt, written if job is None else job)


@pytest.mark.parametrize("serializer", [JSON, PICKLE], ids=["json", "pickle"])
def test_a_failure_is_added_to_the_job_and_arq_reads_it_as_before(
    serializer: JobSerializer,
) -> None:
    job = failed(serializer)
    written, history = job.with_failure(ValueError("no"), serializer)
    assert [(entry["attempt"], entry["error"]) for entry in history] == [(1, "ValueError: no")]
    before = deserialize_job_raw(job.job, deserializer=serializer.loads)
    assert deserialize_job_raw(written, deserializer=serializer.loads) == before
    again, history = failed(serializer, 2, written).with_failure(KeyError("x"), serializer)
    assert [entry["attempt"] for entry in history] == [1, 2]
    assert len(again) > len(written)


def test_the_history_is_bounded_and_keeps_the_first_failure_and_the_newest() -> None:
    written = failed().with_failure(ValueError("dead"), JSON, dead=True)[0]
    for attempt in range(2, MAX_HISTORY + 5):
        written, history = failed(JSON, attempt, written).with_failure(ValueError("x"), JSON)
    assert len(history) == MAX_HISTORY
    assert [entry["attempt"] for entry in history][:2] == [1, 6]
    assert history[-1]["attempt"] == MAX_HISTORY + 4
    _, history = failed(JSON, 99, written).with_failure(ValueError("dead"), JSON, dead=True)
    assert history[-1]["dead"] == 2


def test_a_dead_job_has_the_time_of_its_first_failure_and_the_trace_of_its_sender() -> None:
    job = JSON.dumps(
        {"t": None, "f": "send", "a": [1], "k": {"to": "a"}, "et": 1, "tp": "00-a-b-01"}
    )
    written, history = failed(JSON, 1, job).with_failure(ValueError("no"), JSON)
    first = history[0]["at"] = "2026-01-01T00:00:00.000+00:00"
    written = JSON.dumps(JSON.loads(written) | {"h": history})
    fields = failed(JSON, 2, written).dead_letter(
        ValueError("no"), "retries", JSON, queue="mail", worker="me"
    )
    assert fields["_first_failed_at"] == first < fields["_failed_at"]
    assert (fields["_trace"], fields["_consumer"]) == ("00-a-b-01", "me")
    unreadable = failed(JSON, 2, b"not a job").dead_letter(
        ValueError("no"), "retries", JSON, queue="mail", worker="me"
    )
    assert unreadable["_first_failed_at"] == unreadable["_failed_at"]
    assert "_trace" not in unreadable


@pytest.mark.parametrize("job", [b"", b"not a job", pickle.dumps({"f": "send"})])
def test_a_job_that_cannot_be_read_is_left_as_it_is(
    job: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    written, history = failed(JSON, 3, job).with_failure(ValueError("no"), JSON)
    assert written == b""
    assert [(entry["attempt"], entry["error"]) for entry in history] == [(3, "ValueError: no")]
    assert "the history of job j1 cannot be kept" in caplog.text


def test_a_job_that_would_change_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    def reads_both(data: bytes) -> dict[str, object]:
        return pickle.loads(data) if data.startswith(b"\x80") else codec.loads(data)

    # Arguments of a pickle come back as lists and plain data from JSON.
    job = pickle.dumps({"t": None, "f": "send", "a": ((1, 2),), "k": {}, "et": 1_000})
    written, _ = failed(JSON, 1, job).with_failure(
        ValueError("no"), JobSerializer(codec.dumps, reads_both)
    )
    assert written == b""
    assert "it would change the job's arguments" in caplog.text


def test_a_dead_letter_has_all_that_a_person_needs_and_the_job_itself() -> None:
    job = failed(JSON, 5)
    fields = job.dead_letter(ValueError("no"), "retries", JSON, queue="mail", worker="me")
    assert fields["type"] == "send"
    assert json.loads(fields["data"]) == {"args": [1], "kwargs": {"to": "a"}}
    assert fields["_id"] == "j1"
    assert (fields["_reason"], fields["_attempts"], fields["_replays"]) == ("retries", "5", "0")
    assert (fields["_original_stream"], fields["_consumer"]) == ("mail", "me")
    assert "ValueError: no" in fields["_traceback"]
    inside = codec.loads(codec.encode(fields["_job"]))
    assert inside["h"] == json.loads(fields["_history"])
    assert codec.loads(job.job).items() <= inside.items()


def test_arguments_without_a_json_form_are_shown_as_their_repr() -> None:
    job = FailedJob("j1", "send", (object(),), {}, 1, b"")
    fields = job.dead_letter(ValueError("no"), "permanent", PICKLE, queue="q", worker="me")
    assert json.loads(fields["data"])["args"][0].startswith("<object object")
    assert fields["_job"] == ""
