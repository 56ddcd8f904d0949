"""Settings of telemetry, beside those of `WorkerConfig`."""

from pydantic import Field, SecretStr

from ..environment import Environment


class TelemetryConfig(Environment):
    """Read from ``WORKER_*`` variables and ``.env``."""

    metrics_host: str = Field(default="0.0.0.0", min_length=1)  # noqa: S104 - Prometheus is elsewhere
    """Address at which ``/metrics``, ``/livez`` and ``/readyz`` are served."""
    metrics_port: int = Field(default=9464, ge=0, le=65535)
    """Its port, or the next free one if another worker uses it; 0 means any."""
    sentry_dsn: SecretStr = SecretStr("")
    """Sentry project to which dead letters and failures are reported; empty disables it."""
