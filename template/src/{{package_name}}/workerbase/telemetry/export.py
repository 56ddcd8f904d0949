"""Exports spans to a collector, if OpenTelemetry's own variables name one.

Its other variables apply, too: ``OTEL_TRACES_SAMPLER``, ``OTEL_EXPORTER_OTLP_HEADERS`` and so on.
"""

import os

from opentelemetry import trace

from ..errors import ConfigError

_WHERE = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_SERVICE, _RESOURCE = "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"


def if_configured(service: str) -> bool:
    """Export spans over OTLP and HTTP, unless OpenTelemetry is set up already; return whether.

    Args:
        service: name of the service, unless the environment names it.

    Raises:
        ConfigError: the exporter is not installed.
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
        msg = f"{place} is set, but the exporter is missing; `uv sync --extra tracing` installs it"
        raise ConfigError(msg) from None
    if "service.name=" not in os.environ.get(_RESOURCE, ""):
        os.environ.setdefault(_SERVICE, service)
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return True
