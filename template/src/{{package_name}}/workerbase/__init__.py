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

from typing import TYPE_CHECKING

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

if not TYPE_CHECKING:  # type checkers would take any name for an existing one
    from .former_names import __getattr__  # noqa: F401

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
