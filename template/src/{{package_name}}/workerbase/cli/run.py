"""``run``: start the worker."""

import logging
import sys
from pathlib import Path

import click

from ..config import health_path
from ..errors import ConfigError
from ..process import heartbeat
from ..process.runner import run as run_worker
from ..process.service import ResolvedSettings
from .app import App, pass_app
from .terminal import setup_logging

logger = logging.getLogger(__name__)


@click.command()
@pass_app
def run(app: App) -> None:
    """Start the worker, until SIGTERM or Ctrl-C.

    The first signal drains: running work is finished, the rest is released. A second one exits at
    once.
    """
    path = Path(health_path())
    other = heartbeat.other_writer(path)
    try:
        heartbeat.remove(path)
    except OSError as exc:
        msg = (
            f"cannot remove {path} ({exc.strerror}): WORKER_HEALTH_FILE must name a file that the "
            "worker may write"
        )
        raise ConfigError(msg) from exc
    settings = app.settings()
    _setup_process(settings)
    for problem in settings.config.unknown_variables():
        logger.warning("%s", problem)
    if other:
        logger.warning(
            "the worker with pid %s writes %s, too; give each worker of a machine its own "
            "WORKER_HEALTH_FILE",
            other,
            path,
        )
    sys.exit(run_worker(settings))


def _setup_process(settings: ResolvedSettings) -> None:
    """Set up logging: by the project, by a service, or as plain lines."""
    config = settings.config
    done = [service.setup_process(config) for service in settings.services]
    if settings.setup_process is not None:
        settings.setup_process(config)
    elif not any(done):
        setup_logging(config)
