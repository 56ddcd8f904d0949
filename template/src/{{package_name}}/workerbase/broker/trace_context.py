"""Trace context: the sender's trace travels with the message or job.

OpenTelemetry is not imported for it: a current span can only exist where the application has
imported OpenTelemetry itself, which `sys.modules` tells.
"""

import pickle
import sys
from typing import Any, cast

from arq.jobs import Serializer

FIELD = "_trace"
"""Field of a message; it stays as it is over retries, dead letters and replays."""
JOB_KEY = "tp"
"""Key of a serialized job, beside arq's own; plain arq does not read it."""

_API = "opentelemetry.trace"


def traceparent() -> str:
    """Return the current span as a W3C ``traceparent``, empty if there is none."""
    # While another thread still imports the module, the function may be missing.
    current: Any = getattr(sys.modules.get(_API), "get_current_span", None)
    if current is None:
        return ""
    span = current().get_span_context()
    if not span.is_valid:
        return ""
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"


def trace_of_job(job: object) -> str:
    """Return the trace that `with_trace` wrote into a job, empty if there is none."""
    return str(cast("dict[str, object]", job).get(JOB_KEY, "")) if isinstance(job, dict) else ""


def with_trace(serializer: Serializer | None) -> Serializer | None:
    """Let a serializer of jobs write the current span, if there is one; None is arq's pickle."""
    trace = traceparent()
    if not trace:
        return serializer
    write: Serializer = serializer or pickle.dumps
    return lambda job: write({**job, JOB_KEY: trace})
