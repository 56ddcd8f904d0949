"""A server is asked for what endangers messages: eviction, memory, and being a replica."""

import pytest
from redis.exceptions import RedisError
from workerbase.broker.client import connect
from workerbase.broker.dsn import RedisDsn
from workerbase.broker.server_info import ServerInfo
from workerbase.testing import Server
from workerbase.types import RedisClient


@pytest.mark.parametrize(
    ("info", "name"),
    [
        ({"redis_version": "6.2.9"}, "redis 6.2.9"),
        ({"server_name": "valkey", "valkey_version": "9.1", "redis_version": "7.2"}, "valkey 9.1"),
    ],
)
def test_the_server_is_named_with_its_own_version(info: dict[str, object], name: str) -> None:
    assert ServerInfo.from_info(info).name == name


async def test_a_real_server_tells_its_memory_and_role(client: RedisClient, server: Server) -> None:
    info = await ServerInfo.read(client)
    assert info.name == server.version
    assert (info.role, info.max_bytes, info.policy) == ("master", 0, "noeviction")
    assert info.used_bytes > 0
    assert info.warnings == ()


async def test_eviction_a_full_server_and_a_replica_are_warned_of(own_server: Server) -> None:
    async with connect(RedisDsn.parse(own_server.dsn)) as redis:
        await redis.config_set("maxmemory-policy", "volatile-lru")
        assert (await ServerInfo.read(redis)).warnings == ()  # without a limit nothing is deleted
        await redis.config_set("maxmemory", "100mb")
        (eviction,) = (await ServerInfo.read(redis)).warnings
        assert "maxmemory-policy volatile-lru" in eviction
        await redis.config_set("maxmemory-policy", "noeviction")
        assert (await ServerInfo.read(redis)).warnings == ()
        await redis.config_set("maxmemory", (await ServerInfo.read(redis)).used_bytes + 1000)
        (full,) = (await ServerInfo.read(redis)).warnings
        assert "of its maxmemory" in full
        await redis.config_set("maxmemory", 0)
        await redis.execute_command("REPLICAOF", "127.0.0.1", "1")
        (replica,) = (await ServerInfo.read(redis)).warnings
        assert "accepts no writes" in replica


async def test_a_hosted_server_may_leave_out_what_it_likes(own_server: Server) -> None:
    assert ServerInfo.from_info({"redis_version": "7.2"}) == ServerInfo(name="redis 7.2")
    async with connect(RedisDsn.parse(own_server.dsn)) as redis:
        own_server.kill()
        with pytest.raises((RedisError, OSError)):
            await ServerInfo.read(redis)
