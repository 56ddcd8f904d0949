"""Log lines: JSON for machines, readable in a terminal, without secrets."""

import asyncio
import contextlib
import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import format_span_id, format_trace_id
from pydantic import BaseModel
from workerbase.config import WorkerConfig
from workerbase.monitor import Monitors, Work
from workerbase.telemetry import logs
from workerbase.telemetry.tracing import Tracing

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
MESSAGE = Work(
    "message", "orders", "order.placed", "m1", 2, b"hunter2", f"00-{TRACE_ID}-b7ad6b7169203331-01"
)
JOB = Work("job", "arq:queue", "send_email", "j1", 1)


class Order(BaseModel):
    email: str


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def output() -> io.StringIO:
    """What is written where there is no terminal."""
    stream = io.StringIO()
    logs.configure(WorkerConfig(), stream=stream)
    return stream


def lines(output: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.getvalue().splitlines()]


def log_all(text: str) -> None:
    for name in ("workerbase.jobs", "arq.worker", "myworker.tasks"):
        logging.getLogger(name).info(text, extra={"number": 1})
    structlog.get_logger("myworker.handlers").info(text, number=1)


def test_each_line_of_a_run_names_its_message(output: io.StringIO) -> None:
    with logs.LogContext().around(MESSAGE):
        log_all("hello")

    found = lines(output)
    assert [line.pop("logger") for line in found] == [
        "workerbase.jobs",
        "arq.worker",
        "myworker.tasks",
        "myworker.handlers",
    ]
    for line in found:
        assert list(line)[:3] == ["timestamp", "level", "message"]
        assert line.pop("timestamp").endswith("Z")
        assert line == {
            "level": "info",
            "message": "hello",
            "number": 1,
            "message_id": "m1",
            "event_type": "order.placed",
            "stream": "orders",
            "attempt": 2,
            "trace_id": TRACE_ID,
        }


def test_a_job_has_names_of_its_own(output: io.StringIO) -> None:
    with logs.LogContext().around(JOB):
        logging.getLogger("x").warning("hello %s", "there")
    (line,) = lines(output)
    del line["timestamp"]
    assert line == {
        "level": "warning",
        "logger": "x",
        "message": "hello there",
        "job_id": "j1",
        "function": "send_email",
        "queue": "arq:queue",
        "attempt": 1,
    }


async def test_nothing_of_a_run_remains_for_the_next(output: io.StringIO) -> None:
    context, log = logs.LogContext(), logging.getLogger("x")
    with contextlib.suppress(ValueError), context.around(MESSAGE):
        structlog.contextvars.bind_contextvars(customer=7)
        log.info("first")
        raise ValueError
    with context.around(JOB):
        await asyncio.create_task(asyncio.to_thread(log.info, "second"))

    first, second = lines(output)
    assert first["customer"] == 7
    assert {"message_id", "event_type", "stream", "customer"}.isdisjoint(second)
    assert second["job_id"] == "j1"


async def test_lines_about_the_end_belong_to_the_run_and_what_starts_then_does_not(
    output: io.StringIO,
) -> None:
    log = logging.getLogger("x")

    async def say(text: str) -> None:
        log.info(text)

    with logs.LogContext().around(JOB):
        child = asyncio.create_task(say("started by the task"))
    log.info("failed")
    await asyncio.create_task(say("the next job"))
    await asyncio.to_thread(log.info, "a thread")
    await child

    found = {line["message"]: line.get("job_id") for line in lines(output)}
    assert found == {
        "failed": "j1",
        "the next job": None,
        "a thread": None,
        "started by the task": "j1",
    }


@pytest.mark.parametrize("tracing_first", [True, False])
def test_the_current_span_is_in_the_line(
    output: io.StringIO, provider: TracerProvider, tracing_first: bool
) -> None:
    monitors = [Tracing(provider=provider), logs.LogContext()]
    with (
        Monitors(monitors if tracing_first else monitors[::-1]).around(JOB),
        provider.get_tracer("x").start_as_current_span("query") as span,
    ):
        structlog.get_logger("x").info("within")

    (line,) = lines(output)
    context = span.get_span_context()
    assert line["trace_id"] == format_trace_id(context.trace_id)
    assert line["span_id"] == format_span_id(context.span_id)


SOURCE = 'hunter2["nowhere"]'
"""The line that a traceback shows."""


def fail() -> None:
    hunter2 = {"local": "hunter2"}
    try:
        hunter2["nowhere"]
    except LookupError as exc:
        url = "redis://u:" + hunter2["local"] + "@cache"
        raise ValueError(f"cannot reach {url}") from exc


def test_an_exception_is_structured(output: io.StringIO) -> None:
    try:
        fail()
    except ValueError:
        logging.getLogger("x").exception("failed")

    (line,) = lines(output)
    last, cause = line["exception"]
    assert (last["exc_type"], cause["exc_type"]) == ("ValueError", "KeyError")
    assert last["exc_value"] == "cannot reach redis://[redacted]@cache"
    assert last["frames"][-1]["name"] == "fail"
    assert "hunter2" not in output.getvalue()


def test_warnings_are_lines_like_all_others(output: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        logging.captureWarnings(capture=True)
        warnings.warn("old", stacklevel=1)
    (line,) = lines(output)
    assert line["logger"] == "py.warnings"


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_secrets_and_payloads_are_not_in_the_log(stream: type[io.StringIO]) -> None:
    output = stream()
    logs.configure(WorkerConfig(), stream=output)
    order = Order(email="hunter2")
    log = logging.getLogger("x")
    log.info("got %s with %s", order, "password=hunter2")
    log.info("got %s", [order])
    log.info("got %(order)s", {"order": order})
    log.info(order)
    structlog.get_logger("x").info("got %s of %s", order, {"a": [order]})
    log.info("to %s", "amqp://u:hunter2@h", extra={"token": "hunter2", "data": {"a": "hunter2"}})
    structlog.get_logger("x").info("sent", order=order, authorization="hunter2", raw=b"hunter2")
    try:
        fail()
    except ValueError:
        log.exception("failed")
        structlog.get_logger("x").exception("failed")

    written = output.getvalue()
    assert "hunter2" not in written.replace(SOURCE, "")
    assert written.count("Order([redacted])") == 7
    assert written.count("cannot reach redis://[redacted]@cache") == 2


def test_a_project_may_show_what_is_harmless_there() -> None:
    output = io.StringIO()
    logs.configure(WorkerConfig(), stream=output, shown={"Result", "prompt_tokens"})
    structlog.get_logger("x").info("done", result="fine", prompt_tokens=7, token="t")
    (line,) = lines(output)
    assert (line["result"], line["prompt_tokens"], line["token"]) == ("fine", 7, "[redacted]")


def test_a_terminal_gets_readable_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    output = Terminal()
    logs.configure(WorkerConfig(), stream=output)
    with logs.LogContext().around(JOB):
        log_all("hello")
    try:
        fail()
    except ValueError:
        logging.getLogger("x").exception("failed")

    first, *_ = output.getvalue().splitlines()
    assert first.split()[1:6] == ["[info", "]", "hello", "[workerbase.jobs]", "attempt=1"]
    assert "job_id=j1" in first
    assert "\x1b" not in output.getvalue()
    assert "\n  ValueError: cannot reach redis://[redacted]@cache" in output.getvalue()
    assert "hunter2" not in output.getvalue().replace(SOURCE, "")


def test_a_terminal_has_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    output = Terminal()
    logs.configure(WorkerConfig(), stream=output)
    logging.getLogger("x").info("hello")
    assert "\x1b[" in output.getvalue()


def test_the_level_is_the_configured_one() -> None:
    output = io.StringIO()
    logs.configure(WorkerConfig(log_level="warning"), stream=output)
    log_all("quiet")
    assert output.getvalue() == ""


def test_standard_error_is_where_it_goes(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(WorkerConfig())
    logging.getLogger("x").warning("hello")
    out, err = capsys.readouterr()
    assert (out, json.loads(err)["message"]) == ("", "hello")
    assert logging.getLogger().handlers[0].__dict__["stream"] is sys.stderr


HOSTILE = "first\n2026-01-01 INFO forged\x1b[31m\x00\u202eend"


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["JSON", "terminal"])
def test_no_text_of_others_reaches_the_log_as_it_is(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    logs.configure(WorkerConfig(), stream=stream)
    logging.getLogger("x").warning("failed: %s", HOSTILE, extra={"event_type": HOSTILE})
    structlog.get_logger("x").warning(HOSTILE, event_type=HOSTILE)
    try:
        fail_with(HOSTILE)
    except ValueError:
        logging.getLogger("x").exception("failed")

    text = stream.getvalue()
    assert not set(text) & set("\x1b\x00\u202e")
    assert not any(line.startswith("2026-01-01") for line in text.splitlines())
    assert text.count("forged") == 5


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["JSON", "terminal"])
def test_an_error_of_any_size_is_bounded(stream: io.StringIO) -> None:
    logs.configure(WorkerConfig(), stream=stream)
    try:
        fail_with("x" * 50_000_000)
    except ValueError as exc:
        logging.getLogger("x").error("failed: %s", exc, exc_info=exc)  # noqa: TRY400
    assert "in fail_with" in stream.getvalue() or '"fail_with"' in stream.getvalue()
    assert len(stream.getvalue()) < 40_000


def fail_with(text: str) -> None:
    raise ValueError(text)
