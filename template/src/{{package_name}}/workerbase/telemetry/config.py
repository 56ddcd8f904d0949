# Owned by arq-worker-template: `copier update` overwrites edits; subclass TelemetryConfig instead.
"""The knobs of telemetry, beside those of `WorkerConfig`."""

from pydantic import Field, SecretStr

from ..config import Environment


class TelemetryConfig(Environment):
    """Read from ``WORKER_*`` variables and ``.env``."""

    metrics_host: str = Field(default="0.0.0.0", min_length=1)  # noqa: S104 - Prometheus is elsewhere
    """Address at which ``/metrics``, ``/livez`` and ``/readyz`` are served."""
    metrics_port: int = Field(default=9464, ge=0, le=65535)
    """Its port, or the next free one where another worker has it; 0 means any."""
    sentry_dsn: SecretStr = SecretStr("")
    """Where what is given up is reported to Sentry; empty means nowhere."""
