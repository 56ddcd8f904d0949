"""The worker base: what every worker of this template shares.

The names that a project builds on are exported here; those of a feature by its own package, such
as ``workerbase.streams``. `docs/architecture.md` of the template describes the whole. To read it,
from the contract inwards:

- `base`, `config`, `environment`, `task_utils`, `types`, `errors`, `monitor`: the contract
- `process`: one worker process; `process.service` is the interface of what it runs
- `engine`: decisions without Redis; `broker`: Redis without decisions
- `leasing`: what services share that lease their work
- `delivery`: for applications; `inspector`: reads and repairs; `cli`: the command line
- `testing`: the test kit; not in the wheel
- `streams`, `jobs`, `telemetry`, `console`, `devtools`: features, which a project may leave out
"""

import importlib
from typing import TYPE_CHECKING

from . import former_names

if TYPE_CHECKING:
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
    from .process.service import Service, WorkerContext
    from .task_utils import task
    from .types import Ctx

_MODULE_OF = {
    "CORE_FUNCTIONS": "base",
    "BaseArqService": "base",
    "BaseArqWorkerSettings": "base",
    "Ctx": "types",
    "PermanentError": "errors",
    "Service": "process.service",
    "TransientError": "errors",
    "WorkerConfig": "config",
    "WorkerContext": "process.service",
    "WorkerError": "errors",
    "base_shutdown": "base",
    "base_startup": "base",
    "requeue_to_stream": "base",
    "task": "task_utils",
}


def _look_up(name: str) -> object:
    """Import a name when it is first used: an application that only enqueues needs no worker."""
    if name not in _MODULE_OF:
        return former_names.look_up(name)
    found = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = found
    return found


if not TYPE_CHECKING:  # type checkers would take any name for an existing one
    __getattr__ = _look_up

__all__ = [
    "CORE_FUNCTIONS",
    "BaseArqService",
    "BaseArqWorkerSettings",
    "Ctx",
    "PermanentError",
    "Service",
    "TransientError",
    "WorkerConfig",
    "WorkerContext",
    "WorkerError",
    "base_shutdown",
    "base_startup",
    "requeue_to_stream",
    "task",
]
