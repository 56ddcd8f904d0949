"""Reports to Sentry: one for each message or job that finally fails, none for its retries.

A report takes milliseconds of the event loop, so repeated reports of one error are limited.

The client is the worker's own, without integrations: nothing is patched, no log line or local
variable is attached, and the Sentry of the application is not touched.
"""

import atexit
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..engine import redact
from ..engine.text import MAX_ERROR, bounded
from ..errors import ConfigError
from ..monitor import Monitor, Outcome, Work
from ..process.arq_names import JobExecutionFailed
from .config import TelemetryConfig

CLOSE_S = 2.0
"""How long the end of the process waits for reports to be sent."""
MAX_REPORTS = 20
"""Maximum number of reports of one kind (a name with a type of error) in `WINDOW_S`."""
WINDOW_S = 60.0

_MISSING = (
    "WORKER_SENTRY_DSN is set, but sentry-sdk is missing; `uv sync --extra sentry` installs it"
)


@dataclass(slots=True)
class _Kind:
    since: float
    reports: int = 0
    left_out: int = 0


class Sentry(Monitor):
    """Reports messages and jobs that finally fail.

    Args:
        dsn: of the project in Sentry.
        clock: seconds, for the limit of reports.
        options: of Sentry's client, such as ``release``; ``SENTRY_RELEASE`` and
            ``SENTRY_ENVIRONMENT`` are read, too.

    Raises:
        ConfigError: sentry-sdk is not installed, or the DSN is invalid.
    """

    def __init__(
        self, dsn: str, *, clock: Callable[[], float] = time.monotonic, **options: Any
    ) -> None:
        try:
            import sentry_sdk  # noqa: PLC0415 - an extra
            from sentry_sdk.utils import BadDsn, event_from_exception  # noqa: PLC0415
        except ImportError:
            raise ConfigError(_MISSING) from None
        quiet: dict[str, Any] = {
            "default_integrations": False,
            "include_local_variables": False,
            "max_breadcrumbs": 0,
        }
        try:
            self._client = sentry_sdk.Client(dsn=dsn, **quiet | options)
        except BadDsn:
            raise ConfigError("WORKER_SENTRY_DSN is not a DSN of Sentry") from None
        self._new_scope = sentry_sdk.Scope
        self._event_of = event_from_exception
        self._clock = clock
        self._kinds: dict[tuple[str, type[BaseException] | None], _Kind] = {}
        atexit.register(self._client.close, CLOSE_S)

    def on_finished(
        self, work: Work, outcome: Outcome, error: BaseException | None, seconds: float
    ) -> None:
        """Report ``work`` if it failed finally."""
        del seconds
        if outcome not in ("dead_lettered", "failed"):
            return
        kind = self._kind_of(work, error)
        if kind.reports == MAX_REPORTS:
            kind.left_out += 1
            return
        kind.reports += 1
        event: Any = {"level": "error", "message": f"{work.name} {outcome.replace('_', ' ')}"}
        hint: Any = None
        if error is not None:
            event, hint = self._event_of(error, client_options=self._client.options)
            for exception in event["exception"]["values"]:
                exception["value"] = redact.text(bounded(str(exception["value"]), MAX_ERROR))
        scope = self._new_scope()
        scope.set_transaction_name(work.name)
        for tag, value in _tags(work, outcome).items():
            scope.set_tag(tag, value)
        if kind.left_out:
            scope.set_extra("left_out_before", kind.left_out)
            kind.left_out = 0
        self._client.capture_event(event, hint, scope)

    def _kind_of(self, work: Work, error: BaseException | None) -> _Kind:
        now = self._clock()
        # The name of a job that cannot run is whatever its sender wrote.
        name = "" if isinstance(error, JobExecutionFailed) else work.name
        key = (name, None if error is None else type(error))
        kind = self._kinds.setdefault(key, _Kind(now))
        if now - kind.since >= WINDOW_S:
            kind.since, kind.reports = now, 0
        return kind


def _tags(work: Work, outcome: Outcome) -> dict[str, str]:
    message = work.kind == "message"
    tags = {
        "event_type" if message else "function": work.name,
        "message_id" if message else "job_id": work.id,
        "stream" if message else "queue": work.source,
        "attempt": str(work.attempt),
        "outcome": outcome,
    }
    return tags | ({"trace_id": work.trace[3:35]} if work.trace else {})


def if_configured(config: TelemetryConfig | None = None) -> tuple[Monitor, ...]:
    """Return the monitor if ``WORKER_SENTRY_DSN`` is set, else nothing.

    Raises:
        ConfigError: as `Sentry` does, or the environment is wrong.
    """
    dsn = (config or TelemetryConfig.load()).sentry_dsn
    return (Sentry(dsn.get_secret_value()),) if dsn.get_secret_value() else ()
