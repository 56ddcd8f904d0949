"""The shared aliases fit what a project writes, and the protocols fit redis-py."""

import inspect

from pydantic import SecretStr
from workerbase import types
from workerbase.broker.client import connect, connect_sync
from workerbase.types import Ctx, Dependency, Hook, RedisClient, SyncRedisClient


async def test_the_aliases_fit_what_a_project_writes() -> None:
    async def make(ctx: Ctx) -> object:
        return SecretStr(str(ctx["x"]))

    async def hook(ctx: Ctx) -> None:
        ctx["seen"] = True

    dependency: Dependency = make
    on_startup: Hook = hook
    ctx: Ctx = {"x": 1}
    await on_startup(ctx)
    assert ctx["seen"] is True
    assert await dependency(ctx) == SecretStr("1")
    assert types.EntryId("1-0") == "1-0"


def test_the_protocols_are_met_by_the_clients_of_redis_py() -> None:
    for protocol, make in ((RedisClient, connect), (SyncRedisClient, connect_sync)):
        method = inspect.signature(protocol.execute_command)
        client = inspect.signature(inspect.signature(make).return_annotation.execute_command)
        assert method.parameters["args"].kind == client.parameters["args"].kind
        assert method.parameters["options"].kind == client.parameters["options"].kind
