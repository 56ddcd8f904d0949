"""What a settlement makes of each reply of Redis: no server, no waiting for the clock."""

from typing import Any

import pytest
from fake_redis import FakeRedis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError
from streamkit import settlement_of
from workerbase.engine.retry_policy import DeadLetter, Retry
from workerbase.leasing.batch_writer import MAX_BATCH
from workerbase.streams.entry import Delivery, EntryHeader
from workerbase.types import EntryId


def delivery(number: int, stream: str = "work", **fields: bytes) -> Delivery:
    flat = [part for name, value in fields.items() for part in (name.encode(), value)]
    return Delivery(stream, EntryId(f"{number}-0"), flat)


async def test_acknowledgements_are_batched_and_the_entries_forgotten() -> None:
    redis = FakeRedis()
    settlement = settlement_of(redis)
    for number in range(MAX_BATCH + 1):
        entry = delivery(number)
        settlement.held.by_source[entry.source][entry.entry_id] = entry
        settlement.handled(entry, EntryHeader.from_delivery(entry), 0.0)
    assert len(settlement.held.by_source["work"]) == MAX_BATCH + 1
    await settlement.acks.flush()
    assert [len(command) - 3 for command in redis.sent] == [MAX_BATCH, 1]
    assert not settlement.held.by_source["work"]
    await settlement.acks.flush()
    assert len(redis.sent) == 2


async def test_what_redis_did_not_confirm_is_acknowledged_again() -> None:
    redis = FakeRedis(RedisConnectionError("gone"))
    settlement, entry = settlement_of(redis), delivery(1)
    settlement.held.by_source[entry.source][entry.entry_id] = entry
    settlement.handled(entry, EntryHeader.from_delivery(entry), 0.0)
    with pytest.raises(RedisConnectionError):
        await settlement.acks.flush()
    assert settlement.held.by_source["work"]
    await settlement.acks.flush()
    assert not settlement.held.by_source["work"]


async def test_settling_is_repeated_until_redis_accepts_it() -> None:
    redis = FakeRedis(OutOfMemoryError("OOM"), RedisConnectionError("gone"), 1)
    outcome = await settlement_of(redis).retry(
        delivery(1, data=b"{}"), ValueError("no"), Retry(1.0)
    )
    assert outcome == "retried"
    assert len(redis.sent) == 3


async def test_a_retry_is_due_after_its_delay() -> None:
    redis = FakeRedis()
    await settlement_of(redis).retry(delivery(1, data=b"{}"), ValueError("no"), Retry(30.0))
    assert int(redis.sent[0][-1]) == 30_000


async def test_settling_gives_up_in_a_drain_since_the_entry_can_be_released() -> None:
    redis = FakeRedis(OutOfMemoryError("OOM"))
    settlement = settlement_of(redis, draining=True)
    with pytest.raises(OutOfMemoryError):
        await settlement.retry(delivery(1, data=b"{}"), ValueError("no"), Retry(1.0))


@pytest.mark.parametrize(("reply", "outcome"), [(-1, "lease_lost"), (0, "dead_lettered")])
async def test_only_the_owner_dead_letters(reply: int, outcome: str) -> None:
    redis = FakeRedis(reply)
    entry = delivery(1, data=b"{}")
    assert (
        await settlement_of(redis).set_aside(entry, ValueError("no"), DeadLetter("permanent"), 1)
        == outcome
    )


@pytest.mark.parametrize("decision", [Retry(1.0), DeadLetter("retries")])
async def test_what_has_failed_is_held_no_longer(decision: Retry | DeadLetter) -> None:
    settlement, entry = settlement_of(FakeRedis(1)), delivery(1, data=b"{}")
    settlement.held.by_source[entry.source][entry.entry_id] = entry
    await settlement.failed(entry, EntryHeader.from_delivery(entry), ValueError("no"), decision)
    assert not settlement.held.by_source["work"]


@pytest.mark.parametrize(("reason", "attempts"), [("unknown", b"0"), ("retries", b"5")])
async def test_what_is_parked_counts_no_attempt(reason: Any, attempts: bytes) -> None:
    redis = FakeRedis(0)
    entry = delivery(1, data=b"{}")
    await settlement_of(redis).set_aside(entry, ValueError("no"), DeadLetter(reason), 5)
    sent = [part if isinstance(part, bytes) else str(part).encode() for part in redis.sent[0]]
    assert sent[sent.index(b"_attempts") + 1] == attempts


async def test_entries_that_a_full_dead_letter_queue_drops_are_logged(caplog: Any) -> None:
    entry = delivery(1, data=b"{}")
    await settlement_of(FakeRedis(3)).set_aside(entry, ValueError("no"), DeadLetter("retries"), 5)
    assert "oldest 3 entries were dropped" in caplog.text
