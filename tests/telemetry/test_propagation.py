"""Messages and jobs carry the sender's span, and nothing where there is none."""

import json
import pickle
import subprocess
import sys
from typing import Any

from arq.jobs import deserialize_job_raw
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import Span, TraceFlags, format_span_id, format_trace_id
from processkit import BASE
from workerbase.broker import codec, trace_context
from workerbase.broker.enqueue import NewJob
from workerbase.engine.failure_record import back_to_work, dead_letter, describe_failure, replayed
from workerbase.streams.events import Event
from workerbase.streams.publish import payload_of

OPTIONS: dict[str, Any] = {"_queue_name": "q", "_max_payload_bytes": 1_000}


class Ping(Event, type="ping", stream="pings"):
    pass


def traceparent_of(span: Span) -> str:
    context = span.get_span_context()
    flags = f"{context.trace_flags:02x}"
    return f"00-{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}-{flags}"


def test_a_message_carries_the_current_span_and_only_where_there_is_one(
    provider: TracerProvider,
) -> None:
    with provider.get_tracer("app").start_as_current_span("request") as span:
        within = payload_of(Ping())
    outside = payload_of(Ping())

    assert within["_trace"] == traceparent_of(span)
    assert set(outside) == {"type", "data", "_id"}


def test_a_job_carries_the_current_span_where_arq_does_not_look(provider: TracerProvider) -> None:
    with provider.get_tracer("app").start_as_current_span("request") as span:
        ours = NewJob.create("f", 1, x=2, **OPTIONS).job
        pickled = NewJob.create("f", 1, _serializer=None, **OPTIONS).job
    outside = NewJob.create("f", 1, **OPTIONS).job

    assert json.loads(ours)["tp"] == pickle.loads(pickled)["tp"] == traceparent_of(span)
    assert deserialize_job_raw(ours, deserializer=codec.loads)[:3] == ("f", [1], {"x": 2})
    assert deserialize_job_raw(pickled)[:3] == ("f", (1,), {})
    assert "tp" not in json.loads(outside)


def test_a_span_that_is_not_sampled_is_sent_too_so_that_the_run_is_not_either() -> None:
    tracer = TracerProvider(sampler=ALWAYS_OFF).get_tracer("app")
    with tracer.start_as_current_span("request"):
        flags = trace_context.traceparent().rpartition("-")[2]
    assert not int(flags, 16) & TraceFlags.SAMPLED


def test_retries_dead_letters_and_replays_keep_it() -> None:
    payload = payload_of(Ping()) | {"_trace": "00-1-2-01"}
    failure = describe_failure(ValueError("x"), "pings", "1-0")

    dead = dead_letter(payload, failure, "retries", 5)

    assert dead["_trace"] == back_to_work(dead)["_trace"] == replayed(dead)["_trace"] == "00-1-2-01"


def test_nothing_of_opentelemetry_is_imported_for_it() -> None:
    code = """
import sys
from workerbase.streams import publish
from workerbase.broker import trace_context
assert trace_context.traceparent() == ""
sys.exit(any(name.startswith(("opentelemetry", "structlog", "sentry")) for name in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, env={"PYTHONPATH": str(BASE)}, timeout=60
    )
    assert done.returncode == 0
