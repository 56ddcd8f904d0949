"""A pytest plugin that runs arq's own test-suite with our worker in arq's place.

The suite starts Redis in a container by ``testcontainers``; a local server takes its place.
"""

import inspect
import sys
from types import ModuleType
from typing import Any, Self

import arq.worker
from workerbase.devtools.server import Server
from workerbase.jobs import JobWorker
from workerbase.retry import RetryPolicy


class RedisContainer:
    """A server, behind the few names that the suite uses."""

    port = 0

    def __init__(self, _image: str) -> None:
        self._server = Server()

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def get_container_host_ip(self) -> str:
        return "127.0.0.1"

    def get_exposed_port(self, _: int) -> int:
        return self._server.port


class Engine(JobWorker):
    """Our worker with its usual policy, but no pause before a retry."""

    def __init__(self, *args: Any, **arguments: Any) -> None:
        super().__init__(*args, policy=RetryPolicy(base=0.0), **arguments)


containers: Any = ModuleType("testcontainers.redis")
containers.RedisContainer = RedisContainer
sys.modules["testcontainers"] = ModuleType("testcontainers")
sys.modules["testcontainers.redis"] = containers
# arq takes the names of its settings from the signature.
Engine.__signature__ = inspect.signature(arq.worker.Worker)  # type: ignore[attr-defined]
arq.worker.Worker = Engine  # type: ignore[misc]
