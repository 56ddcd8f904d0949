# Owned by arq-worker-template: `copier update` overwrites edits; set up OpenTelemetry yourself.
"""Sends spans to a collector, if OpenTelemetry's own variables name one.

The rest is theirs, too: ``OTEL_TRACES_SAMPLER``, ``OTEL_EXPORTER_OTLP_HEADERS`` and so on.
"""

import os

from opentelemetry import trace

from ..errors import ConfigError

_WHERE = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_SERVICE, _RESOURCE = "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"


def if_configured(service: str) -> bool:
    """Send spans over OTLP and HTTP, unless OpenTelemetry was set up before; return whether.

    Args:
        service: name of the service, where the environment does not name it.

    Raises:
        ConfigError: what sends them is not installed.
    """
    (place, *_) = [name for name in _WHERE if os.environ.get(name)] or [""]
    if not place or not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return False
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError:
        msg = f"{place} is set, but nothing sends spans; `uv sync --extra tracing` brings it"
        raise ConfigError(msg) from None
    if "service.name=" not in os.environ.get(_RESOURCE, ""):
        os.environ.setdefault(_SERVICE, service)
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return True
