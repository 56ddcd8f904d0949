"""Telemetry: a feature that reports a worker to the outside: metrics, traces, logs, Sentry.

May import the core and `cli`; works with or without the other features.
"""

from .service import Telemetry

__all__ = ["Telemetry"]
