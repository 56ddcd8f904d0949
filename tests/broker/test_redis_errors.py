"""Answers with which Redis refuses a command are recognized, on every kind of server."""

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from workerbase.broker import redis_errors
from workerbase.broker.client import connect
from workerbase.broker.dsn import RedisDsn
from workerbase.broker.redis_errors import (
    OUTAGE_ERRORS,
    is_cross_slot,
    is_missing_group,
    is_missing_key,
)
from workerbase.testing import Server

PREDICATES = {
    name: predicate for name, predicate in vars(redis_errors).items() if name.startswith("is_")
}


async def refusal(server: Server, *commands: tuple[object, ...]) -> BaseException:
    """Send the commands and return the error of the last one."""
    client = connect(RedisDsn.parse(server.dsn))
    try:
        for command in commands[:-1]:
            await client.execute_command(*command)
        with pytest.raises(ResponseError) as caught:
            await client.execute_command(*commands[-1])
        return caught.value
    finally:
        await client.aclose(close_connection_pool=True)


async def test_a_missing_group_is_recognized(each_server: Server) -> None:
    read = ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">")
    assert is_missing_group(await refusal(each_server, read))
    assert is_missing_group(await refusal(each_server, ("XADD", "s", "*", "a", 1), read))


async def test_a_missing_stream_is_recognized(each_server: Server) -> None:
    assert is_missing_key(await refusal(each_server, ("XINFO", "STREAM", "s")))


def test_a_cluster_is_recognized() -> None:
    text = "CROSSSLOT Keys in request don't hash to the same slot"
    assert is_cross_slot(ResponseError(text))


@pytest.mark.parametrize("name", PREDICATES)
@pytest.mark.parametrize(
    "error",
    [
        ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
        RedisConnectionError("NOGROUP BUSYGROUP CROSSSLOT no such key"),
        ValueError("NOGROUP BUSYGROUP CROSSSLOT no such key"),
    ],
)
def test_another_error_is_not_mistaken(name: str, error: Exception) -> None:
    assert not PREDICATES[name](error)


def test_only_this_module_looks_at_texts_of_errors() -> None:
    assert set(PREDICATES) >= {
        "is_cross_slot", "is_missing_group", "is_missing_key",
    }  # fmt: skip
    assert issubclass(ResponseError, OUTAGE_ERRORS)
    assert issubclass(ConnectionResetError, OUTAGE_ERRORS)
