"""Consumer groups are created once, and nothing else is done to the stream."""

import pytest
from click.testing import CliRunner
from redis.exceptions import ResponseError
from workerbase import BaseArqWorkerSettings
from workerbase.cli import make_cli
from workerbase.streams.commands import groups
from workerbase.streams.groups import ensure_group
from workerbase.types import RedisClient


class Settings(BaseArqWorkerSettings):
    """A worker without streams."""


async def test_a_group_is_created_where_it_is_missing_and_reads_what_was_there(
    client: RedisClient,
) -> None:
    await client.execute_command("XADD", "orders", "*", "type", "order")
    assert await ensure_group(client, "orders", "workers", "beginning")
    assert not await ensure_group(client, "orders", "workers", "beginning")
    read = await client.execute_command(
        "XREADGROUP", "GROUP", "workers", "me", "STREAMS", "orders", ">"
    )
    assert len(read) == 1


async def test_a_key_of_another_kind_is_reported(client: RedisClient) -> None:
    await client.execute_command("SET", "orders", "text")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await ensure_group(client, "orders", "workers", "beginning")


def test_a_worker_without_streams_needs_no_groups() -> None:
    main = make_cli(f"{__name__}:Settings")
    main.add_command(groups)
    done = CliRunner().invoke(main, ["groups"])
    assert (done.exit_code, done.output) == (0, "the worker reads no streams\n")
