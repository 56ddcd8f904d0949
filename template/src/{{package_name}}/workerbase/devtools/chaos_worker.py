"""The worker that the chaos run kills; it takes its configuration from the environment."""

import sys
from typing import Any, cast

from ..base import CORE_FUNCTIONS, BaseArqWorkerSettings
from ..config import WorkerConfig
from ..process.runner import run
from ..process.settings import resolved_settings
from .workload import Workload, find, workloads

MAX_ATTEMPTS = 10
"""Attempts of a job, and deliveries of a message, that are in work when their worker dies."""


def settings_of(
    chosen: list[Workload], attempts: int, config: WorkerConfig | None = None
) -> type[BaseArqWorkerSettings]:
    """Return the settings of a worker for these workloads."""
    console = find("..console")
    history = (console.History(),) if console else ()
    members: dict[str, Any] = {
        "config": config,
        "services": (*(service for one in chosen for service in one.services()), *history),
        "functions": CORE_FUNCTIONS + [f for one in chosen for f in one.functions(attempts)],
    }
    return cast("type[BaseArqWorkerSettings]", type("Settings", (BaseArqWorkerSettings,), members))


if __name__ == "__main__":
    sys.exit(run(resolved_settings(settings_of(workloads(), MAX_ATTEMPTS))))
