"""Applications and handlers publish events, sync and async."""

import asyncio
from collections.abc import Callable, Iterator
from typing import cast

import pytest
import redis as sync
from pydantic import SecretStr
from redis.exceptions import ConnectionError as RedisConnectionError
from workerbase import WorkerConfig
from workerbase.broker import codec
from workerbase.broker.client import connect
from workerbase.errors import PayloadError, RegistrationError
from workerbase.streams import Event, EventPublisher, publish
from workerbase.streams.publish import MAX_BATCH
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient


class OrderPlaced(Event, type="order.placed", stream="orders"):
    order_id: int
    note: str = ""


class UserJoined(Event, type="user.joined", stream="users"):
    name: str


@pytest.fixture
def events(server: Server, config_for: Callable[..., WorkerConfig]) -> Iterator[EventPublisher]:
    publisher = EventPublisher(config_for(server))
    yield publisher
    publisher.close()


@pytest.fixture
def admin(server: Server) -> Iterator[sync.Redis]:
    with sync.Redis(port=server.port) as client:
        yield client


def fields_of(admin: sync.Redis, stream: str) -> list[dict[bytes, bytes]]:
    return [fields for _, fields in admin.xrange(stream)]


async def test_an_event_is_published_with_type_json_and_a_message_id_of_its_own(
    events: EventPublisher, client: RedisClient, admin: sync.Redis
) -> None:
    event = OrderPlaced(order_id=1, note="\N{SNOWMAN}")
    ids = [
        *events.publish_sync(event),
        *await events.publish(event),
        *await publish(client, event),
    ]
    assert [codec.decode(entry_id) for entry_id, _ in admin.xrange("orders")] == ids
    found = fields_of(admin, "orders")
    assert {fields[b"type"] for fields in found} == {b"order.placed"}
    assert OrderPlaced.model_validate_json(found[0][b"data"]) == event
    assert len({fields[b"_id"] for fields in found}) == 3
    await events.aclose()


async def test_what_is_published_again_after_a_lost_answer_has_the_id_of_the_first(
    server: Server, admin: sync.Redis
) -> None:
    lost: list[bytes] = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, there = await asyncio.open_connection("127.0.0.1", server.port)
        while command := await reader.read(65536):
            there.write(command)
            answer = await back.read(65536)
            if b"order.placed" in command and not lost:
                lost.append(answer)
                break
            writer.write(answer)
        there.close()
        writer.close()

    proxy = await asyncio.start_server(forward, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    config = WorkerConfig(redis_dsn=SecretStr(f"redis://127.0.0.1:{port}"))
    async with proxy, connect(config.dsn) as client:
        await publish(cast("RedisClient", client), OrderPlaced(order_id=1))
    assert lost, "the proxy took an answer"
    first, second = fields_of(admin, "orders")
    assert first == second


async def test_many_events_are_published_in_order_over_several_batches_and_streams(
    each_server: Server, config_for: Callable[..., WorkerConfig]
) -> None:
    async with EventPublisher(config_for(each_server)) as events:
        many = [OrderPlaced(order_id=n) for n in range(2 * MAX_BATCH + 1)]
        for ids in (events.publish_sync(*many), await events.publish(*many)):
            assert len(ids) == len(many)
            order = [tuple(map(int, entry_id.split("-"))) for entry_id in ids]
            assert order == sorted(order)
        await events.publish(UserJoined(name="a"), OrderPlaced(order_id=0), UserJoined(name="b"))
        admin = events.for_threads
        assert admin.xlen("orders") == 2 * len(many) + 1
        found = [OrderPlaced.model_validate_json(f[b"data"]) for f in fields_of(admin, "orders")]
        assert found == [*many, *many, OrderPlaced(order_id=0)]
        names = [UserJoined.model_validate_json(f[b"data"]) for f in fields_of(admin, "users")]
        assert names == [UserJoined(name="a"), UserJoined(name="b")]


async def test_publishing_nothing_does_nothing(events: EventPublisher) -> None:
    assert events.publish_sync() == []
    assert await events.publish() == []


@pytest.mark.parametrize("missing", ["type", "stream"])
async def test_an_event_without_type_or_stream_is_refused_before_anything_is_published(
    events: EventPublisher, admin: sync.Redis, missing: str
) -> None:
    class Nameless(Event, **{"type": "t", "stream": "s"} | {missing: ""}):  # type: ignore[misc]
        pass

    with pytest.raises(RegistrationError, match="Nameless needs a type and a stream"):
        events.publish_sync(OrderPlaced(order_id=1), Nameless())
    with pytest.raises(RegistrationError, match="Nameless"):
        await events.publish(OrderPlaced(order_id=1), Nameless())
    assert admin.dbsize() == 0
    await events.aclose()


async def test_a_batch_that_redis_refuses_is_refused_as_a_whole(
    own_server: Server, config_for: Callable[..., WorkerConfig]
) -> None:
    async with EventPublisher(config_for(own_server)) as events:
        events.for_threads.config_set("maxmemory", 1)
        with pytest.raises(sync.RedisError, match=r"(?i)maxmemory|OOM"):
            events.publish_sync(OrderPlaced(order_id=1), OrderPlaced(order_id=2))
        with pytest.raises(sync.RedisError, match=r"(?i)maxmemory|OOM"):
            await events.publish(OrderPlaced(order_id=1))
        events.for_threads.config_set("maxmemory", 0)
        assert events.for_threads.exists("orders") == 0
        own_server.kill()
        with pytest.raises(RedisConnectionError):
            events.publish_sync(OrderPlaced(order_id=1))
        own_server.start()
        assert len(events.publish_sync(OrderPlaced(order_id=1))) == 1


class Invited(Event, type="user.invited", stream="users"):
    token: SecretStr


async def test_an_event_that_would_be_read_differently_is_refused_with_its_batch(
    events: EventPublisher, client: RedisClient, admin: sync.Redis
) -> None:
    batch = [UserJoined(name="a"), Invited(token=SecretStr("tok-123"))]
    refusal = "event user.invited: field 'token'.*asterisks"
    with pytest.raises(PayloadError, match=refusal):
        events.publish_sync(*batch)
    with pytest.raises(PayloadError, match=refusal):
        await publish(client, *batch)
    assert admin.keys() == []
