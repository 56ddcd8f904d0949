"""The listener on a channel wakes its owner, again after each outage."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from waiting import until
from workerbase.broker import wakeup
from workerbase.broker.availability import RedisAvailability
from workerbase.broker.client import connect
from workerbase.broker.dsn import RedisDsn
from workerbase.broker.enqueue import QueueClient
from workerbase.broker.wakeup import WakeupListener
from workerbase.testing import Server


@contextlib.asynccontextmanager
async def listening(
    server: Server, *channels: str
) -> AsyncIterator[tuple[WakeupListener, list[tuple[bytes, bytes]], QueueClient]]:
    client = connect(RedisDsn.parse(server.dsn))
    messages: list[tuple[bytes, bytes]] = []
    listener = WakeupListener(
        client, channels, lambda *message: messages.append(message), RedisAvailability()
    )
    assert not listener.listening
    running = asyncio.create_task(listener.run())
    try:
        await until(lambda: listener.listening and messages)
        yield listener, messages, client
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert not listener.listening
        await client.aclose(close_connection_pool=True)


async def test_messages_of_all_channels_arrive(server: Server) -> None:
    async with listening(server, "a", "b") as (_, messages, client):
        await until(lambda: messages.count((b"", b"")) == 2, what="both subscriptions")
        await client.publish("a", b"1")
        await client.publish("b", b"\xff\x00")
        await client.publish("c", b"3")
        await until(lambda: len(messages) == 4)
        assert messages[2:] == [(b"a", b"1"), (b"b", b"\xff\x00")]


async def test_a_new_subscription_is_reported_since_messages_may_be_missing(
    own_server: Server,
) -> None:
    async with listening(own_server, "a") as (_, messages, client):
        assert messages == [(b"", b"")]
        own_server.kill()
        await asyncio.sleep(0.2)
        own_server.start()
        await until(lambda: messages.count((b"", b"")) >= 2)
        await client.publish("a", b"1")
        await until(lambda: messages[-1] == (b"a", b"1"))


async def test_a_silent_connection_is_kept_alive(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeup, "QUIET_S", 0.05)
    async with listening(server, "a") as (listener, messages, client):
        before = (await client.info("commandstats")).get("cmdstat_ping", {"calls": 0})["calls"]
        await asyncio.sleep(0.5)
        after = (await client.info("commandstats"))["cmdstat_ping"]["calls"]
        assert after >= before + 3
        assert listener.listening
        await client.publish("a", b"1")
        await until(lambda: (b"a", b"1") in messages)
