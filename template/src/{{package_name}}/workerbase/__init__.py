# Owned by arq-worker-template: `copier update` overwrites edits; import from it, add nothing.
"""The worker base: what every worker of this template shares.

Names to build on are exported here; the modules hold the rest.
"""

from .base import (
    CORE_FUNCTIONS,
    BaseArqService,
    BaseArqWorkerSettings,
    base_shutdown,
    base_startup,
    requeue_to_stream,
)
from .config import WorkerConfig
from .errors import PermanentError, TransientError, WorkerError
from .events import Event, EventContext, EventRouter
from .task_utils import task
from .types import Ctx

__all__ = [
    "CORE_FUNCTIONS",
    "BaseArqService",
    "BaseArqWorkerSettings",
    "Ctx",
    "Event",
    "EventContext",
    "EventRouter",
    "PermanentError",
    "TransientError",
    "WorkerConfig",
    "WorkerError",
    "base_shutdown",
    "base_startup",
    "requeue_to_stream",
    "task",
]
