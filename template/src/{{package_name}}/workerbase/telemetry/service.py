"""`Telemetry`: the service that observes the worker and reports it to the outside."""

from collections.abc import Collection, Sequence

from ..config import WorkerConfig
from ..monitor import Monitor
from ..process.service import Service
from . import sentry, setup
from .logs import LogContext
from .metrics import Metrics
from .tracing import Tracing


class Telemetry(Service):
    """Brings metrics, traces, structured logs and reports to Sentry.

    Args:
        shown: names of log fields that are hidden by default and harmless in this project.
    """

    name = "telemetry"

    def __init__(self, *, shown: Collection[str] = ()) -> None:
        self._shown = shown

    def setup_process(self, config: WorkerConfig) -> bool:
        """Set up logging, and the export of spans."""
        setup.setup_process(config, self._shown)
        return True

    def monitors(self, config: WorkerConfig) -> Sequence[Monitor]:
        """Return the monitors; metrics are served while the worker runs.

        Raises:
            ConfigError: a variable of telemetry is invalid.
        """
        return (Metrics(), Tracing(config), LogContext(), *sentry.if_configured())
