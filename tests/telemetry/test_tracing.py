"""A span around each run, as OpenTelemetry's conventions for messaging have it."""

import asyncio
from dataclasses import replace

import pytest
from arq.worker import Retry
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.semconv._incubating.attributes import messaging_attributes as names
from opentelemetry.semconv.attributes import error_attributes, server_attributes
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import SecretStr
from workerbase.monitor import Monitors, Work
from workerbase.streams.config import StreamsConfig
from workerbase.telemetry.tracing import Tracing

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
MESSAGE = Work(
    "message", "orders", "order.placed", "m1", 2, b'{"n":1}', f"00-{TRACE_ID}-{SPAN_ID}-01"
)
JOB = Work("job", "arq:queue", "send_email", "j1", 1)


async def test_the_span_of_a_message_says_what_the_conventions_ask_for(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    config = StreamsConfig(redis_dsn=SecretStr("redis://u:pw@cache:6380/0"), consumer_group="g")

    with Tracing(config, provider).around(MESSAGE):
        await asyncio.sleep(0)
        current = trace.get_current_span()

    (span,) = spans.get_finished_spans()
    assert current.get_span_context() == span.context
    assert trace.get_current_span() is trace.INVALID_SPAN
    assert (span.name, span.kind) == ("process orders", SpanKind.CONSUMER)
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes == {
        names.MESSAGING_SYSTEM: "redis",
        names.MESSAGING_OPERATION_NAME: "process",
        names.MESSAGING_OPERATION_TYPE: names.MessagingOperationTypeValues.PROCESS.value,
        names.MESSAGING_DESTINATION_NAME: "orders",
        names.MESSAGING_CONSUMER_GROUP_NAME: "g",
        names.MESSAGING_MESSAGE_ID: "m1",
        names.MESSAGING_MESSAGE_BODY_SIZE: 7,
        server_attributes.SERVER_ADDRESS: "cache",
        server_attributes.SERVER_PORT: 6380,
        "messaging.redis.message.type": "order.placed",
        "messaging.redis.message.delivery_attempt": 2,
    }


def test_the_sender_is_parent_and_link(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    with Tracing(provider=provider).around(MESSAGE):
        pass

    (span,) = spans.get_finished_spans()
    assert span.parent is not None
    assert f"{span.parent.trace_id:032x}" == f"{span.context.trace_id:032x}" == TRACE_ID
    assert f"{span.parent.span_id:016x}" == SPAN_ID
    assert [link.context for link in span.links] == [span.parent]


@pytest.mark.parametrize("sent", ["", "nonsense", "00-0-0-01", "00-" + "f" * 600])
def test_without_a_sender_the_run_begins_a_trace(
    provider: TracerProvider, spans: InMemorySpanExporter, sent: str
) -> None:
    # What is current where a job happens to be started is not who sent it.
    with (
        provider.get_tracer("t").start_as_current_span("something else") as other,
        Tracing(provider=provider).around(replace(JOB, trace=sent)),
    ):
        pass

    span = spans.get_finished_spans()[0]
    assert (span.name, span.parent, span.links) == ("process arq:queue", None, ())
    assert span.context.trace_id != other.get_span_context().trace_id


def test_an_error_is_recorded_on_the_span_and_passes_through(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    monitors = Monitors([Tracing(provider=provider)])
    with pytest.raises(LookupError, match="pw"), monitors.around(MESSAGE):
        raise LookupError("nothing at redis://u:pw@cache")

    (span,) = spans.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes[error_attributes.ERROR_TYPE] == "LookupError"
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "nothing at redis://[redacted]@cache"
    (event,) = span.events
    assert event.attributes is not None
    assert event.attributes["exception.type"] == "LookupError"
    assert "test_tracing.py" in str(event.attributes["exception.stacktrace"])
    assert "u:pw" not in span.to_json()


def test_a_retry_that_the_task_asks_for_is_not_an_error(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    with pytest.raises(Retry), Tracing(provider=provider).around(JOB):
        raise Retry(defer=1)

    (span,) = spans.get_finished_spans()
    assert span.status.status_code is StatusCode.UNSET
    assert "error.type" not in (span.attributes or {})


def test_a_cancelled_run_ends_its_span(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    with pytest.raises(asyncio.CancelledError), Tracing(provider=provider).around(JOB):
        raise asyncio.CancelledError

    (span,) = spans.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["error.type"] == "asyncio.exceptions.CancelledError"


def test_jobs_of_the_base_itself_have_no_spans(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    with Tracing(provider=provider).around(replace(JOB, name="requeue_to_stream")):
        pass

    assert spans.get_finished_spans() == ()


def test_retries_are_sampled_with_their_sender(spans: InMemorySpanExporter) -> None:
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(0)))
    provider.add_span_processor(SimpleSpanProcessor(spans))
    tracing = Tracing(provider=provider)
    for attempt in (1, 2, 3):
        for flags in ("01", "00"):
            sent = f"00-{TRACE_ID}-{SPAN_ID}-{flags}"
            with tracing.around(replace(MESSAGE, attempt=attempt, trace=sent)):
                pass

    kept = [span.attributes or {} for span in spans.get_finished_spans()]
    assert [span["messaging.redis.message.delivery_attempt"] for span in kept] == [1, 2, 3]


def test_without_an_sdk_it_runs_and_records_nothing() -> None:
    with Tracing().around(MESSAGE):
        assert not trace.get_current_span().is_recording()
