# Owned by arq-worker-template: `copier update` overwrites edits; import from it, add nothing.
"""The names that every worker builds on: settings, life-cycle hooks, core tasks, a client."""

from .lifecycle import base_shutdown, base_startup
from .requeue import CORE_FUNCTIONS, RequeueError, requeue_to_stream
from .service import BaseArqService
from .settings import BaseArqWorkerSettings

__all__ = [
    "CORE_FUNCTIONS",
    "BaseArqService",
    "BaseArqWorkerSettings",
    "RequeueError",
    "base_shutdown",
    "base_startup",
    "requeue_to_stream",
]
