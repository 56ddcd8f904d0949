"""What is given up is reported to Sentry: once, with tags, without payloads."""

import atexit
import json
import logging
import sys
from dataclasses import replace
from typing import Any

import pytest
import sentry_sdk
from arq.worker import JobExecutionFailed
from pydantic import SecretStr
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport
from workerbase.errors import ConfigError
from workerbase.monitor import Outcome, Work
from workerbase.telemetry.config import TelemetryConfig
from workerbase.telemetry.sentry import MAX_REPORTS, WINDOW_S, Sentry, if_configured

DSN = "https://key@sentry.example/1"
MESSAGE = Work(
    "message", "orders", "order.placed", "m1", 5, b"hunter2", f"00-{'a' * 32}-{'b' * 16}-01"
)
JOB = Work("job", "arq:queue", "send_email", "j1", 3)


class Memory(Transport):
    """Keeps the reports."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        event = envelope.get_event()
        assert event is not None
        self.events.append(json.loads(json.dumps(event)))


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def sentry(memory: Memory) -> Sentry:
    return Sentry(DSN, transport=memory)


def error() -> ValueError:
    """Return an error that was raised where a local variable holds a payload."""
    local = "amqp://u:hunter2@broker"
    try:
        int(local)
    except ValueError as exc:
        return exc


def test_only_what_is_given_up_is_reported(sentry: Sentry, memory: Memory) -> None:
    outcomes: tuple[Outcome, ...] = (
        "handled", "retried", "parked", "held", "aborted", "lease_lost", "deleted",
    )  # fmt: skip
    for outcome in outcomes:
        sentry.on_finished(MESSAGE, outcome, error(), 1.0)
    assert memory.events == []

    sentry.on_finished(MESSAGE, "dead_lettered", error(), 1.0)
    sentry.on_finished(JOB, "failed", error(), 1.0)
    assert len(memory.events) == 2


def test_a_report_says_what_failed_and_nothing_of_its_payload(
    sentry: Sentry, memory: Memory
) -> None:
    logging.getLogger("x").error("a line with hunter2")
    sentry.on_finished(MESSAGE, "dead_lettered", error(), 1.0)

    (event,) = memory.events
    assert event["tags"] == {
        "event_type": "order.placed",
        "message_id": "m1",
        "stream": "orders",
        "attempt": "5",
        "outcome": "dead_lettered",
        "trace_id": "a" * 32,
    }
    assert event["transaction"] == "order.placed"
    assert event["level"] == "error"
    (exception,) = event["exception"]["values"]
    assert exception["type"] == "ValueError"
    assert exception["value"].endswith("'amqp://[redacted]@broker'")
    (frame,) = exception["stacktrace"]["frames"]
    assert frame["function"] == "error"
    assert "vars" not in frame
    assert event.get("breadcrumbs", {}).get("values", []) == []
    for name in ("context_line", "pre_context", "post_context"):
        frame.pop(name)  # source code
    assert "hunter2" not in json.dumps(event)


def test_a_job_is_identified_by_its_function(sentry: Sentry, memory: Memory) -> None:
    sentry.on_finished(JOB, "failed", error(), 0.0)
    assert memory.events[0]["tags"] == {
        "function": "send_email",
        "job_id": "j1",
        "queue": "arq:queue",
        "attempt": "3",
        "outcome": "failed",
    }


def test_without_an_exception_the_outcome_is_the_message(sentry: Sentry, memory: Memory) -> None:
    sentry.on_finished(JOB, "failed", None, 0.0)
    assert memory.events[0]["message"] == "send_email failed"


def test_a_flood_of_one_error_is_cut_short_and_counted(memory: Memory) -> None:
    now = 0.0
    sentry = Sentry(DSN, transport=memory, clock=lambda: now)
    for _ in range(MAX_REPORTS + 7):
        sentry.on_finished(JOB, "failed", error(), 0.0)
    assert len(memory.events) == MAX_REPORTS
    sentry.on_finished(MESSAGE, "dead_lettered", error(), 0.0)  # another name
    sentry.on_finished(JOB, "failed", KeyError("x"), 0.0)  # another error
    assert len(memory.events) == MAX_REPORTS + 2

    now = WINDOW_S
    sentry.on_finished(JOB, "failed", error(), 0.0)
    sentry.on_finished(JOB, "failed", error(), 0.0)

    extra = [event.get("extra") or {} for event in memory.events[-2:]]
    assert extra == [{"left_out_before": 7}, {}]
    assert len(memory.events) == MAX_REPORTS + 4


def test_names_that_senders_invent_are_one_kind(memory: Memory) -> None:
    sentry = Sentry(DSN, transport=memory)
    for number in range(MAX_REPORTS + 7):
        invented = replace(JOB, name=f"no such task {number}")
        sentry.on_finished(invented, "dead_lettered", JobExecutionFailed("not found"), 0.0)
    assert len(memory.events) == MAX_REPORTS


def test_the_applications_own_sentry_is_left_alone(sentry: Sentry, memory: Memory) -> None:
    theirs = Memory()
    sentry_sdk.init(DSN, transport=theirs, default_integrations=False)
    try:
        sentry_sdk.set_tag("theirs", "hunter2")
        sentry.on_finished(JOB, "failed", error(), 0.0)
        sentry_sdk.capture_message("theirs")
    finally:
        sentry_sdk.get_client().close()
        sentry_sdk.get_global_scope().clear()
        sentry_sdk.get_isolation_scope().clear()
        sentry_sdk.get_global_scope().set_client(None)
    assert [event["message"] for event in theirs.events] == ["theirs"]
    assert len(memory.events) == 1
    assert "theirs" not in memory.events[0]["tags"]


def test_the_environment_switches_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Any] = []
    monkeypatch.setattr(atexit, "register", lambda *call: closed.append(call))
    assert if_configured() == ()

    monkeypatch.setenv("WORKER_SENTRY_DSN", DSN)
    (monitor,) = if_configured()

    assert isinstance(monitor, Sentry)
    assert "key" not in repr(TelemetryConfig.load())
    ((close, seconds),) = closed
    close(seconds)


def test_a_wrong_dsn_stops_the_start_and_is_not_repeated() -> None:
    with pytest.raises(ConfigError, match="WORKER_SENTRY_DSN is not a DSN") as caught:
        if_configured(TelemetryConfig(sentry_dsn=SecretStr("https://hunter2")))
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_missing_sdk_stops_the_start_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sentry_sdk", None)
    assert if_configured() == ()
    monkeypatch.setenv("WORKER_SENTRY_DSN", DSN)
    with pytest.raises(ConfigError, match="uv sync --extra sentry"):
        if_configured()
