"""A pytest plugin that runs arq's own test suite with our engine in place of arq's worker.

The suite starts Redis in a container by ``testcontainers``; a local server takes its place. Tests
that legitimately differ are listed in ``differs.txt`` and must fail.
"""

import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import arq.worker
import pytest
from arq.connections import ArqRedis
from arq_adapter import EngineWorker
from workerbase.testing.redis_server import Server


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


containers: Any = ModuleType("testcontainers.redis")
containers.RedisContainer = RedisContainer
sys.modules["testcontainers"] = ModuleType("testcontainers")
sys.modules["testcontainers.redis"] = containers
# arq takes the names of its settings from the signature.
EngineWorker.__signature__ = inspect.signature(arq.worker.Worker)  # type: ignore[attr-defined]
arq.worker.Worker = EngineWorker  # type: ignore[misc]


_keys = ArqRedis.keys


async def _lasting_keys(self: ArqRedis, pattern: str = "*", **options: Any) -> list[bytes]:
    """List all keys but those by which our workers recognize outages and repeated requests."""
    found = await _keys(self, pattern, **options)
    return [key for key in found if not key.endswith(b":alive") and b":answer:" not in key]


ArqRedis.keys = _lasting_keys  # type: ignore[method-assign]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect the listed tests to fail, and no other."""
    lines = Path(__file__).with_name("differs.txt").read_text().splitlines()
    pairs = (line.split(": ", 1) for line in lines if line[0] != "#")
    by_id = {item.nodeid: item for item in items}
    for node_id, reason in pairs:
        if node_id not in by_id:
            msg = f"{node_id} is in differs.txt and not in arq's suite"
            raise pytest.UsageError(msg)
        by_id[node_id].add_marker(pytest.mark.xfail(reason=reason, strict=True))
