"""The header of a stream entry: what is read of it, and what makes the message invalid."""

from pathlib import Path

import pytest
from workerbase import BaseArqWorkerSettings
from workerbase.streams import Event, EventContext, EventRouter, Streams, StreamsConfig
from workerbase.streams.entry import Delivery, EntryHeader
from workerbase.testing import WorkerKit
from workerbase.types import EntryId


@pytest.mark.parametrize("retries", [b"-1", b"x", b"", b"9" * 5_000])
def test_a_retry_count_that_is_not_a_number_makes_the_message_invalid(retries: bytes) -> None:
    head = EntryHeader.from_delivery(
        Delivery("work", EntryId("1-0"), [b"type", b"work", b"_retries", retries])
    )
    assert "not a number" in head.problem
    assert head.attempt == 1


async def test_an_entry_of_flat_fields_is_dead_lettered_with_what_is_missing(
    tmp_path: Path,
) -> None:
    router = EventRouter()

    class Paid(Event, type="paid", stream="orders"):
        order: int

    @router.on(Paid)
    async def on_paid(event: Paid, ctx: EventContext) -> None: ...

    class Settings(BaseArqWorkerSettings):
        config = StreamsConfig()
        services = (Streams(router),)

    async with WorkerKit(Settings, str(tmp_path / "healthy")) as kit:
        add = ("XADD", "orders", "*")
        await kit.redis.execute_command(*add, "type", "paid", "order", "7", "user", "me")
        await kit.redis.execute_command(*add, "order", "7")
        await kit.redis.execute_command(*add, "type", "unknown", "order", "7")
        result = await kit.run()
        flat, untyped = await kit.dead_letters("orders")
    assert result.parked == ["unknown"]
    assert "the entry has no 'data' field (its fields: order, type, user)" in flat.error
    assert "the entry has no 'type' field (its fields: order)" in untyped.error
    assert "EventPublisher" in flat.error
    assert "7" not in flat.error + untyped.error
