# Owned by arq-worker-template: `copier update` overwrites edits; import from it, add nothing.
"""The worker base: what every worker of this template shares.

Names to build on are exported here. To read the rest, from the outside to the inside:

- a process: `runner`, its loops `services`, hooks `lifecycle`, settings `config` and `settings`;
  how it is: `health`, read by `probe`, `loopwatch`, and `link`, what it knows about Redis
- messages: `events` (models and handlers), `consumer` (reads), `buffer` (waits), `handling` (runs),
  `breaker`, `settle` (ends); `lease` and `keeper` (stays ours); `groups` and `janitor` (tidies)
- jobs: `task_utils` (tasks), `jobs` (claims), `jobrunner` and its `attempt` (runs), `jobqueue`
  (each verb of the queue), `cron`
- failures of both: `retry` (decides), `requeue` (puts back), `deadletter` (what one says), `dlq`
  (the tool)
- what Redis sees: `keys`, `wire`, `scripts` (each step that must be whole), `batch` (what is done)
- around it: `delivery` (for applications), `service` (for tasks), `cli`, `status`, `monitor` and
  `telemetry`, `testing`, `devtools`
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
