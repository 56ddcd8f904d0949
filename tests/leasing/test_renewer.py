"""Leases as every service holds them: renewed in time, lost, and released at a stop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from waiting import until
from workerbase.broker import availability as availability_module
from workerbase.broker.availability import RedisAvailability
from workerbase.leasing.held_leases import HeldLeases
from workerbase.leasing.prefetch_queue import PrefetchQueue
from workerbase.leasing.renewer import LeaseRenewer, release
from workerbase.monitor import Monitor, Monitors


@dataclass(eq=False)
class Item:
    lease_id: str
    source: str = "work"
    started: bool = False
    size: int = 0
    settling: bool = False


class Counts(Monitor):
    def __init__(self) -> None:
        self.leases: list[tuple[str, str, int]] = []

    def on_leases(self, kind: Any, event: Any, count: int) -> None:
        self.leases.append((kind, event, count))


@dataclass
class Bench:
    """A renewer with a Redis that answers from a list of replies, ``[]`` by default."""

    replies: list[list[str] | Exception] = field(default_factory=list[list[str] | Exception])
    asked: list[tuple[str, list[str]]] = field(default_factory=list[tuple[str, list[str]]])

    def __post_init__(self) -> None:
        self.held = HeldLeases[Item](["work", "more"])
        self.queue = PrefetchQueue[Item](10, 10)
        self.availability = RedisAvailability()
        self.availability.record_success()
        self.counts = Counts()
        self.renewer = LeaseRenewer(
            held=self.held,
            queue=self.queue,
            renew=self.renew,
            kind="message",
            lease_timeout=0.1,
            availability=self.availability,
            monitors=Monitors([self.counts]),
        )

    async def renew(self, source: str, ids: list[str]) -> list[str]:
        self.asked.append((source, ids))
        reply = self.replies.pop(0) if self.replies else []
        if isinstance(reply, Exception):
            raise reply
        return reply

    def hold(self, item: Item) -> Item:
        self.held.by_source[item.source][item.lease_id] = item
        return item

    @contextlib.asynccontextmanager
    async def renewing(self) -> AsyncIterator[None]:
        running = asyncio.create_task(self.renewer.run())
        try:
            yield
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running


async def test_redis_is_asked_only_about_sources_of_which_something_is_held() -> None:
    bench = Bench()
    async with bench.renewing():
        await asyncio.sleep(0.1)
        assert bench.asked == []
        bench.hold(Item("1", "more"))
        bench.hold(Item("2", "more"))
        await until(lambda: bench.asked)
    assert bench.asked[0] == ("more", ["1", "2"])
    assert bench.counts.leases[0] == ("message", "renewed", 2)


async def test_a_lost_lease_is_renewed_no_more_and_waiting_work_does_not_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench([["1", "2"]])
    waiting, running, kept = Item("1"), Item("2", started=True), Item("3")
    for item in (waiting, running, kept):
        bench.hold(item)
    bench.queue.add([waiting, kept])
    async with bench.renewing():
        await until(lambda: len(bench.asked) > 1)
    assert bench.asked[:2] == [("work", ["1", "2", "3"]), ("work", ["3"])]
    assert (bench.queue.take(), bench.queue.take()) == (kept, None)
    assert bench.counts.leases[:2] == [("message", "lost", 2), ("message", "renewed", 1)]
    assert caplog.messages == [
        "the lease of message 2 of work ended while it ran; it may run twice"
    ]


async def test_what_is_being_settled_is_not_lost(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench([["1"]])
    item = bench.hold(Item("1", started=True, settling=True))
    async with bench.renewing():
        await until(lambda: bench.counts.leases)
    assert list(bench.held) == [item]
    assert ("message", "lost", 1) not in bench.counts.leases
    assert caplog.messages == []


async def test_an_outage_is_recorded_and_the_leases_are_renewed_after_it() -> None:
    bench = Bench([RedisConnectionError("gone")])
    bench.hold(Item("1"))
    bench.hold(Item("2", "more"))
    async with bench.renewing():
        await until(lambda: len(bench.asked) >= 3)
    assert bench.asked[:3] == [("work", ["1"]), ("more", ["2"]), ("work", ["1"])]
    assert not bench.availability.up, "a renewal is not a proof that Redis accepts writes"
    assert ("message", "lost", 1) not in bench.counts.leases


async def test_a_release_that_fails_is_reported_where_anything_is_held(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")

    async def gone() -> int:
        raise RedisConnectionError("gone")

    async def three() -> int:
        return 3

    async def none() -> int:
        return 0

    releases = {"held": gone, "empty": gone, "work": three, "idle": none}
    await release("entries", releases, lambda source: source == "held", RedisAvailability())
    assert caplog.messages == [
        "could not release entries of held (gone); other workers reclaim them when the lease ends",
        "released 3 entries of work",
    ]


async def test_what_redis_does_not_answer_is_left_to_the_end_of_its_lease(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(availability_module, "PARTING_S", 0.05)
    availability = RedisAvailability()
    availability.record_failure(RedisConnectionError("gone"), "reading")

    async def never() -> int:
        await asyncio.Event().wait()
        raise AssertionError

    await release("entries", dict.fromkeys("abc", never), lambda _: True, availability)
    assert len(caplog.messages) == 3 + 1  # and that of the outage
    assert all("(no answer in time)" in text for text in caplog.messages[1:])
