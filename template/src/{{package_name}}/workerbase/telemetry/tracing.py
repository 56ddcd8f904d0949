"""Traces: a span for each run of a handler or task, in the trace of whoever sent it.

Only OpenTelemetry's API is needed; without its SDK nothing is recorded. Names and attributes are
those of its semantic conventions for messaging.

Every run of a message or job, retries and replays included, is a child of the span in which it was
sent, and linked to it. The conventions ask for the link and allow the parent where a span stands
for one message. As a child the run shares the sender's trace id, which logs show, and above all
its sampling: under a sampler that keeps one trace in a hundred, retries that were traces of their
own would be missing from nearly all that are kept. What was sent without a trace begins one.
"""

from collections.abc import Generator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from ..config import WorkerConfig
from ..engine import redact
from ..engine.failure_record import text_of
from ..engine.text import traceback_of
from ..monitor import Monitor, Work
from ..process.arq_names import ArqRetry, RetryJob
from ..process.requeue import REQUEUE_TASK

_W3C = TraceContextTextMapPropagator()


class Tracing(Monitor):
    """Opens a span around each run.

    A run that an abort or the end of the worker cancelled has failed with CancelledError.

    Args:
        config: if given, spans carry the consumer group and the address of Redis.
        provider: used instead of the global provider.
    """

    def __init__(
        self, config: WorkerConfig | None = None, provider: TracerProvider | None = None
    ) -> None:
        self._tracer = trace.get_tracer(__name__, tracer_provider=provider)
        self._common: dict[str, AttributeValue] = {
            "messaging.system": "redis",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
        }
        self._group: dict[str, AttributeValue] = {}
        if config is not None:
            group = getattr(config, "consumer_group", None)  # where the worker has streams
            if group is not None:
                self._group["messaging.consumer.group.name"] = group
            if "host" in config.dsn.options:  # else it is a socket, or Sentinel decides
                host, port = config.dsn.hosts[0]
                self._common |= {"server.address": host, "server.port": port}

    @contextmanager
    def around(self, work: Work) -> Generator[None]:
        """Surround the run with a span."""
        if work.kind == "job" and work.name == REQUEUE_TASK:
            yield  # a job of the base itself; the retry has a span
            return
        # An empty context: the current span is not the sender.
        parent = _W3C.extract({"traceparent": work.trace}, context=Context())
        sender = trace.get_current_span(parent).get_span_context()
        span = self._tracer.start_span(
            f"process {work.source}",
            parent,
            SpanKind.CONSUMER,
            self._attributes(work),
            [Link(sender)] if sender.is_valid else (),
        )
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                yield
        except BaseException as exc:
            if not isinstance(exc, ArqRetry | RetryJob):  # requested by the task
                _failed(span, exc)
            raise
        finally:
            span.end()

    def _attributes(self, work: Work) -> dict[str, AttributeValue]:
        attributes = {
            **self._common,
            "messaging.destination.name": work.source,
            "messaging.message.id": work.id,
            # The conventions have no common name for these two.
            "messaging.redis.message.type": work.name,
            "messaging.redis.message.delivery_attempt": work.attempt,
        }
        if work.kind == "message":
            attributes |= self._group
            attributes["messaging.message.body.size"] = len(work.data)
        return attributes


def _failed(span: Span, error: BaseException) -> None:
    if not span.is_recording():
        return
    kind = type(error)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    name, text = f"{module}{kind.__qualname__}", redact.text(text_of(error))
    span.set_attribute("error.type", name)
    span.set_status(StatusCode.ERROR, text)
    span.add_event(
        "exception",
        {
            "exception.type": name,
            "exception.message": text,
            "exception.stacktrace": redact.text(traceback_of(error)),
        },
    )
