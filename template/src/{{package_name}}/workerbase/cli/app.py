"""What the commands share: the worker's settings and a connection."""

import asyncio
import importlib
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

import click
from redis.exceptions import RedisError
from rich.console import Console

from ..broker.client import connect
from ..broker.enqueue import QueueClient
from ..broker.transport import mismatch
from ..config import WorkerConfig
from ..errors import SettingsError
from ..process.service import ResolvedSettings
from ..process.settings import resolved_settings
from .terminal import MAX_COLUMNS

T = TypeVar("T")


class App:
    """The worker that the command line belongs to.

    Args:
        settings: ``package.module:Class`` of the worker's settings.
    """

    def __init__(self, settings: str) -> None:
        self.settings_path = settings
        self.console = Console(highlight=False)
        if not self.console.is_terminal and "COLUMNS" not in os.environ:
            self.console.width = MAX_COLUMNS

    def settings(self) -> ResolvedSettings:
        """Import the worker's settings and return them resolved; raises as `settings_class`."""
        return resolved_settings(self.settings_class())

    def settings_class(self) -> type:
        """Import the worker's settings.

        Raises:
            SettingsError: they do not exist; whatever else the import raises is passed on.
        """
        module, _, name = self.settings_path.partition(":")
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ModuleNotFoundError as exc:
            if not f"{module}.".startswith(f"{exc.name}."):
                raise  # an import of the project is broken: its traceback says where
            msg = f"there is no module {exc.name!r}, where {self.settings_path} should be"
            raise SettingsError(msg) from exc
        if found is None:
            msg = f"{self.settings_path} does not exist"
            raise SettingsError(msg)
        resolved_settings(found)
        return cast("type", found)

    @property
    def config(self) -> WorkerConfig:
        """The worker's configuration."""
        return self.settings().config

    def with_redis(self, work: Callable[[QueueClient], Awaitable[T]]) -> T:
        """Run ``work`` with an open client.

        Raises:
            click.ClickException: Redis does not answer, or refuses.
        """
        config = self.config

        async def main() -> T:
            redis = connect(config.dsn, config.queue_name, config.max_payload)
            try:
                return await work(redis)
            except (RedisError, OSError) as exc:
                wrong = await mismatch(config.dsn)
                msg = f"Redis at {config.dsn}, as set by WORKER_REDIS_DSN: {wrong or exc}"
                raise click.ClickException(msg) from exc
            finally:
                await redis.aclose(close_connection_pool=True)

        return asyncio.run(main())


pass_app = click.make_pass_decorator(App)
