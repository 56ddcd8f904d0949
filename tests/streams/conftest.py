"""Fixtures of the stream tests."""

from collections.abc import AsyncIterator

import pytest
from streamkit import client_of
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient


@pytest.fixture
async def each(each_server: Server) -> AsyncIterator[RedisClient]:
    """A client of ``each_server``."""
    async with client_of(each_server) as redis:
        yield redis
