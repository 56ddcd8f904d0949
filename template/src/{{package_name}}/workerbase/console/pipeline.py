"""Sends several commands in one round trip."""

from collections.abc import Iterable
from typing import Any, cast

from arq.connections import ArqRedis

from ..types import RedisArg


async def pipelined(
    redis: ArqRedis, commands: Iterable[tuple[RedisArg, ...]], **options: Any
) -> list[Any]:
    """Send the commands in one round trip, without a transaction, and return their replies.

    Raises:
        redis.exceptions.RedisError: Redis does not answer, or refuses one of them.
    """
    pipe = cast("Any", redis.pipeline(transaction=False))
    for command in commands:
        pipe.execute_command(*command, **options)
    return cast("list[Any]", await pipe.execute())
