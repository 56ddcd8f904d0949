"""Consumer groups are created once, and nothing else is done to the stream."""

import sys
import time
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result
from redis.exceptions import ResponseError
from streamkit import GROUP, STREAM, Work, make_group, read_as, send, worker_for
from workerbase import BaseArqWorkerSettings
from workerbase.cli import make_cli
from workerbase.inspector.status import snapshot
from workerbase.streams import EventContext, EventRouter, Streams
from workerbase.streams.commands import groups
from workerbase.streams.groups import ensure_group, others_that_hold, remove_group
from workerbase.streams.janitor import Janitor
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient
from workerconfig import Config


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


# --- retired groups


router = EventRouter()


@router.on(Work)
async def handle(event: Work, ctx: EventContext) -> None:
    """Do nothing."""


@pytest.fixture
def command(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `groups` of a worker that reads one stream."""
    members = {
        "config": Config.model_validate({"redis_dsn": server.dsn}),
        "services": (Streams(router),),
    }
    reader = type("Reader", (BaseArqWorkerSettings,), members)
    monkeypatch.setattr(sys.modules[__name__], "Reader", reader, raising=False)
    main = make_cli(f"{__name__}:Reader")
    main.add_command(groups)
    return lambda *args, **more: CliRunner().invoke(main, ["groups", *args], **more)


async def test_a_group_that_nobody_reads_is_named_and_can_be_removed(
    each: RedisClient, each_server: Server
) -> None:
    await make_group(each, GROUP, "old-name")
    ids = await send(each, 1, 2, 3)
    await read_as(each, "me")
    await each.execute_command("XACK", STREAM, GROUP, *ids)
    config = Config.model_validate({"redis_dsn": each_server.dsn})
    settings = worker_for(each, config, services=[Streams(router)]).settings
    found = await snapshot(each, settings)
    (other,) = found.sources[0].other_groups
    assert (other.name, other.silent_s) == ("old-name", None)
    assert 0 <= other.oldest_s < 60
    assert [w for w in found.warnings if "`groups rm old-name`" in w]
    assert await remove_group(each, STREAM, "old-name") == "removed"
    assert await remove_group(each, STREAM, "old-name") == "gone"
    assert await remove_group(each, "nothing", "old-name") == "gone"
    assert (await snapshot(each, settings)).sources[0].other_groups == ()


async def test_a_group_whose_worker_lives_is_neither_blamed_nor_removed(each: RedisClient) -> None:
    await make_group(each, GROUP, "mailing")
    await send(each, 1, 2)
    await read_as(each, "alive", count=1, group="mailing")
    (other,) = await others_that_hold(each, STREAM, GROUP, time.time())
    assert (other.name, other.is_silent) == ("mailing", False)
    assert await remove_group(each, STREAM, "mailing") == "alive"
    assert await remove_group(each, STREAM, "mailing", min_silence=0) == "removed"


async def test_the_janitor_names_a_silent_group_once(
    redis: RedisClient, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    await make_group(redis, GROUP, "old-name")
    await send(redis, 1)
    config = Config.model_validate({"redis_dsn": server.dsn})
    janitor = Janitor(worker_for(redis, config), router, config, "me")
    for _ in range(3):
        await janitor._name_silent_groups(STREAM)
    assert caplog.text.count("the consumer group old-name of work has no live worker") == 1


def test_groups_rm_asks_and_says_what_is_given_up(
    server: Server, command: Callable[..., Result]
) -> None:
    with server._client() as client:
        for group in (GROUP, "old-name"):
            client.execute_command("XGROUP", "CREATE", STREAM, group, "0", "MKSTREAM")
        client.execute_command("XADD", STREAM, "*", "type", "work")
    assert "is the group of this worker" in command("rm", GROUP).output
    assert "no stream of this worker has the group" in command("rm", "nobody").output
    refused = command("rm", "old-name", input="n\n")
    assert refused.exit_code == 1
    assert "old-name has not settled 1 entries" in refused.output
    removed = command("rm", "old-name", "--yes")
    assert (removed.exit_code, removed.output.splitlines()[-1]) == (
        0,
        f"{STREAM}: old-name removed",
    )
