"""Entry ids that publishers choose may exceed what a number in Lua holds exactly."""

from collections.abc import AsyncIterator, Callable

import pytest
from streamkit import GROUP, STREAM, Work, client_of, make_group, read_as, worker_for
from workerbase.broker import codec
from workerbase.streams import EventContext, EventRouter
from workerbase.streams.janitor import Janitor
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient
from workerconfig import Config

LAST = 2**64 - 1
BASE = 2**53


@pytest.fixture
async def each(each_server: Server) -> AsyncIterator[RedisClient]:
    async with client_of(each_server) as client:
        yield client


async def add(redis: RedisClient, *ids: str) -> None:
    for entry_id in ids:
        await redis.execute_command("XADD", STREAM, entry_id, "type", "work", "data", "{}")


async def left(redis: RedisClient) -> list[str]:
    rows = await redis.execute_command("XRANGE", STREAM, "-", "+")
    return [codec.decode(entry_id) for entry_id, _ in rows]


def janitor_of(redis: RedisClient, config: Config) -> Janitor:
    router = EventRouter()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None: ...

    return Janitor(worker_for(redis, config), router, config, "me")


@pytest.mark.parametrize(
    "ids",
    [
        [f"{BASE + 1}-{n}" for n in range(4)],
        [f"{BASE + n}-0" for n in range(4)],
        [f"7-{BASE + n}" for n in range(4)],
        ["1-9", "1-10", "1-99", "1-100"],
        ["9-5", "10-5", "99-5", "100-5"],
        [f"7-{LAST - 1}", f"7-{LAST}", "8-0", "8-1"],
        [f"{LAST}-{LAST - 3 + n}" for n in range(4)],
    ],
    ids=["milliseconds", "each", "sequence", "tens", "hundreds", "overflow", "end"],
)
async def test_nothing_unread_is_trimmed(
    each: RedisClient, each_server: Server, config_for: Callable[..., Config], ids: list[str]
) -> None:
    janitor = janitor_of(each, config_for(each_server))
    await make_group(each)
    await add(each, *ids)
    for number, entry_id in enumerate(ids):
        assert await janitor.trim(STREAM) == (1 if number else 0)
        assert await left(each) == ids[number:]
        assert await read_as(each, "me", count=1) == [entry_id]
        assert await janitor.trim(STREAM) == 0, "it is pending"
        await each.execute_command("XACK", STREAM, GROUP, entry_id)


async def test_the_slowest_of_two_groups_decides(
    each: RedisClient, each_server: Server, config_for: Callable[..., Config]
) -> None:
    ids = [f"{BASE + n}-{BASE + n}" for n in range(4)]
    janitor = janitor_of(each, config_for(each_server))
    await make_group(each, GROUP, "slow")
    await add(each, *ids)
    await each.execute_command("XACK", STREAM, GROUP, *await read_as(each, "me"))
    await each.execute_command(
        "XACK", STREAM, "slow", *await read_as(each, "me", count=3, group="slow")
    )

    assert await janitor.trim(STREAM) == 3
    assert await left(each) == ids[3:]
