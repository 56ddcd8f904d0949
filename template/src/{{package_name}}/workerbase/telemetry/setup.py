"""Prepares a process before the worker starts: its log, and the export of its spans."""

from collections.abc import Collection
from typing import Protocol, runtime_checkable

from ..config import WorkerConfig
from . import export, logs


@runtime_checkable
class _HasGroup(Protocol):
    """A configuration with settings of streams."""

    consumer_group: str


def setup_process(config: WorkerConfig, shown: Collection[str] = ()) -> None:
    """Configure the log, and export spans if a collector is configured.

    Args:
        config: of the worker.
        shown: names of fields that are hidden by default and harmless in this project.

    Raises:
        ConfigError: spans are to be exported and the exporter is not installed.
    """
    logs.configure(config, shown=shown)
    service = config.consumer_group if isinstance(config, _HasGroup) else config.queue_name
    export.if_configured(service)
