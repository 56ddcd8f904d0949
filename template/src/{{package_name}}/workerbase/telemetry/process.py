# Owned by arq-worker-template: `copier update` overwrites edits; write another `setup_process`.
"""What a worker's process needs before it starts: a log, and a way out for its spans."""

from ..config import WorkerConfig
from . import export, logs


def setup(config: WorkerConfig) -> None:
    """Write the log as `logs` does and send spans where `export` finds that they belong.

    Raises:
        ConfigError: spans are to be sent and what sends them is not installed.
    """
    logs.configure(config)
    export.if_configured(config.consumer_group)
