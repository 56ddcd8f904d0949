"""The parts of the consumer by themselves: no server, no waiting for the clock."""

import asyncio
import logging
import time
from itertools import pairwise
from typing import Any

import pytest
from redis.exceptions import AuthenticationError, OutOfMemoryError, ReadOnlyError
from redis.exceptions import ConnectionError as RedisConnectionError
from workerbase import deadletter
from workerbase.batch import BATCH, Batcher
from workerbase.breaker import MAX_PAUSE_S, Breaker
from workerbase.buffer import Buffer
from workerbase.dlq import DeadEntry
from workerbase.errors import WorkerError
from workerbase.events import Head
from workerbase.lease import Delivery
from workerbase.link import LOG_EVERY_S, MAX_DELAY_S, REFUSED_S, RedisLink
from workerbase.retry import DeadLetter, Retry
from workerbase.services import Services
from workerbase.settle import Settler
from workerbase.types import EntryId


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeRedis:
    """Answers from a list; an exception in it is raised. Keeps what was sent."""

    default_queue_name = "arq:queue"

    def __init__(self, *replies: object) -> None:
        self.replies = list(replies)
        self.sent: list[tuple[Any, ...]] = []

    async def execute_command(self, *args: Any, **_: Any) -> Any:
        await asyncio.sleep(0)
        self.sent.append(args)
        reply = self.replies.pop(0) if self.replies else 1
        if isinstance(reply, BaseException):
            raise reply
        return reply


def delivery(number: int, stream: str = "work", **fields: bytes) -> Delivery:
    flat = [part for name, value in fields.items() for part in (name.encode(), value)]
    return Delivery(stream, EntryId(f"{number}-0"), flat)


async def turn(count: int = 5) -> None:
    """Let the other tasks run until they wait."""
    for _ in range(count):
        await asyncio.sleep(0)


# --- buffer


async def test_a_new_buffer_wants_hardly_more_than_there_are_slots() -> None:
    assert 20 <= await Buffer(20, 500).room() <= 21


async def test_fast_handlers_let_the_buffer_read_ahead_and_slow_ones_do_not() -> None:
    buffer = Buffer(20, 500)
    for number in range(400):
        buffer.add([delivery(number)])
        buffer.take()
        buffer.done(0.0001)
    assert await buffer.room() == 520
    for number in range(400):
        buffer.add([delivery(number)])
        buffer.take()
        buffer.done(5.0)
    assert await buffer.room() == 20


async def test_what_runs_leaves_less_room_and_an_empty_buffer_takes_what_there_is() -> None:
    buffer = Buffer(4, 0)
    buffer.add(delivery(number) for number in range(3))
    for _ in range(3):
        buffer.take()
    assert await buffer.room() == 1


async def test_entries_are_read_in_large_bites_while_some_wait() -> None:
    buffer = Buffer(20, 500)
    buffer._mean_s = 1e-4
    buffer.add(delivery(number) for number in range(300))
    reader = asyncio.create_task(buffer.room())
    await turn()
    assert not reader.done(), "220 of 520 are not worth a round trip yet"
    for _ in range(40):
        buffer.take()
        buffer.done(1e-4)
    assert await reader >= 260


async def test_a_paused_buffer_reads_nothing_until_it_is_resumed() -> None:
    buffer = Buffer(2, 0)
    buffer.pause()
    reader = asyncio.create_task(buffer.room())
    await turn()
    assert not reader.done()
    buffer.resume()
    assert await reader == 2


async def test_entries_start_in_their_order() -> None:
    buffer = Buffer(3, 0)
    entries = [delivery(number) for number in range(3)]
    buffer.add(entries)
    assert [buffer.take() for _ in range(4)] == [*entries, None]


async def test_slots_that_wait_are_woken_only_for_what_may_start() -> None:
    buffer, woken = Buffer(3, 0), list[int]()

    async def slot(number: int) -> None:
        while True:
            await buffer.wait()
            woken.append(number)

    slots = [asyncio.create_task(slot(number)) for number in range(3)]
    await turn()
    buffer.pause()
    buffer.add([delivery(1)])
    await turn()
    assert woken == []
    buffer.resume()
    await turn()
    assert woken == [0]
    for task in slots:
        task.cancel()
    await asyncio.gather(*slots, return_exceptions=True)


async def test_what_was_put_back_is_the_next() -> None:
    buffer = Buffer(3, 0)
    entries = [delivery(number) for number in range(3)]
    buffer.add(entries)
    first = buffer.take()
    assert first is entries[0]
    buffer.put_back(first)
    assert not first.started
    assert buffer.take() is first


async def test_only_what_was_lost_is_dropped() -> None:
    buffer = Buffer(3, 0)
    entries = [delivery(number) for number in range(3)]
    buffer.add(entries)
    buffer.drop({entries[1]})
    assert [buffer.take() for _ in range(3)] == [entries[0], entries[2], None]


async def test_a_closed_buffer_forgets_what_waits() -> None:
    buffer = Buffer(3, 0)
    buffer.add([delivery(1)])
    buffer.close()
    assert len(buffer) == 0


async def test_the_reader_waits_for_room_and_is_woken_by_it() -> None:
    buffer = Buffer(1, 0)
    buffer.add([delivery(1)])
    reader = asyncio.create_task(buffer.room())
    await turn()
    assert not reader.done()
    buffer.take()
    await turn()
    assert not reader.done()
    buffer.done(1.0)
    assert await reader == 1


async def test_the_reader_is_woken_when_the_waiting_entries_are_lost() -> None:
    buffer = Buffer(1, 0)
    buffer.hold()
    waiting = delivery(1)
    buffer.add([waiting])
    reader = asyncio.create_task(buffer.room())
    await turn()
    buffer.drop({waiting})
    async with asyncio.timeout(5):
        assert await reader == 1
    assert len(buffer) == 0


async def test_a_paused_buffer_starts_nothing_but_what_is_to_run_next() -> None:
    buffer = Buffer(2, 0)
    buffer.add([delivery(1)])
    buffer.pause()
    assert buffer.take() is None
    alone = delivery(2)
    pushing = asyncio.create_task(buffer.run_next(alone))
    await turn()
    assert not pushing.done()
    assert buffer.take() is alone
    assert alone.started
    await pushing
    assert buffer.take() is None
    quiet = asyncio.create_task(buffer.wait_quiet(None))
    await turn()
    assert not quiet.done()
    buffer.done(1.0)
    await quiet
    buffer.resume()
    started = buffer.take()
    assert started is not None
    assert started.entry_id == "1-0"


async def test_giving_up_to_run_next_leaves_nothing_behind() -> None:
    buffer = Buffer(1, 0)
    pushing = asyncio.create_task(buffer.run_next(delivery(1)))
    await turn()
    pushing.cancel()
    await asyncio.gather(pushing, return_exceptions=True)
    assert buffer.take() is None
    assert buffer.running == 0


async def test_a_closed_buffer_stays_closed() -> None:
    buffer = Buffer(1, 0)
    buffer.add([delivery(1)])
    buffer.close()
    buffer.resume()
    buffer.add([delivery(2)])
    assert buffer.take() is None


async def test_a_held_buffer_lets_probes_go_round() -> None:
    buffer = Buffer(3, 0)
    first, second = delivery(1), delivery(2)
    buffer.add([first, second])
    buffer.hold()
    assert buffer.holding
    assert buffer.take() is None
    buffer.probe()
    assert buffer.take() is second
    assert buffer.take() is None
    buffer.put_back(second)
    assert not second.started
    buffer.done(0.1)
    buffer.probe()
    assert buffer.take() is first
    buffer.unhold()
    assert buffer.take() is second


async def test_as_many_slots_wake_as_there_are_entries() -> None:
    buffer = Buffer(3, 0)
    woken: list[int] = []

    async def slot(number: int) -> None:
        await buffer.wait()
        woken.append(number)

    slots = [asyncio.create_task(slot(number)) for number in range(3)]
    await turn()
    buffer.add([delivery(1), delivery(2)])
    await turn()
    assert woken == [0, 1]
    slots[2].cancel()
    await asyncio.gather(*slots, return_exceptions=True)


# --- breaker


def test_the_breaker_opens_after_so_many_different_messages() -> None:
    breaker = Breaker(3, clock=Clock())
    assert [breaker.failed(message) for message in ("a", "a", "b", "a")] == [False] * 4
    assert breaker.failed("c")
    assert breaker.is_open


def test_one_success_in_between_starts_the_count_anew() -> None:
    breaker = Breaker(2, clock=Clock())
    breaker.failed("a")
    assert not breaker.succeeded()
    assert not breaker.failed("b")
    assert not breaker.is_open


def test_probes_follow_in_growing_pauses_until_one_succeeds() -> None:
    clock = Clock()
    breaker = Breaker(1, pause=1.0, clock=clock)
    breaker.failed("a")
    granted: list[float] = []
    for _ in range(1_000):
        if breaker.may_probe():
            granted.append(clock.now - 100.0)
            breaker.failed("a")
        clock.now += 0.25
    pauses = [later - sooner for sooner, later in pairwise(granted)]
    assert granted[0] == 1.0
    assert pauses[:6] == [2.0, 4.0, 8.0, 16.0, MAX_PAUSE_S, MAX_PAUSE_S]
    assert breaker.succeeded()
    assert not breaker.may_probe()
    breaker.failed("b")
    clock.now += 1.0
    assert breaker.may_probe()


def test_what_was_running_when_the_breaker_opened_does_not_put_off_the_first_probe() -> None:
    clock = Clock()
    breaker = Breaker(1, pause=1.0, clock=clock)
    for message in "abcdefghijklmnopqrst":
        breaker.failed(message)
    clock.now += 1.0
    assert breaker.may_probe()


def test_failures_of_an_open_breaker_neither_open_it_again_nor_put_off_its_probe() -> None:
    clock = Clock()
    breaker = Breaker(1, pause=1.0, clock=clock)
    assert not breaker.may_probe(), "nothing is wrong"
    assert breaker.failed("a")
    clock.now += 0.5
    assert not breaker.failed("b")
    clock.now += 0.5
    assert breaker.may_probe()


# --- acks


async def test_acknowledgements_are_batched_and_let_the_entries_go() -> None:
    redis = FakeRedis()
    desk = settler(redis)
    for number in range(BATCH + 1):
        entry = delivery(number)
        desk.held[entry.stream][entry.entry_id] = entry
        desk.handled(entry, Head.of(entry), 0.0)
    assert len(desk.held["work"]) == BATCH + 1
    await desk.acks.flush()
    assert [len(command) - 3 for command in redis.sent] == [BATCH, 1]
    assert not desk.held["work"]
    await desk.acks.flush()
    assert len(redis.sent) == 2


async def test_what_redis_did_not_confirm_is_acknowledged_again() -> None:
    redis = FakeRedis(RedisConnectionError("gone"))
    desk, entry = settler(redis), delivery(1)
    desk.held[entry.stream][entry.entry_id] = entry
    desk.handled(entry, Head.of(entry), 0.0)
    with pytest.raises(RedisConnectionError):
        await desk.acks.flush()
    assert desk.held["work"]
    await desk.acks.flush()
    assert not desk.held["work"]


async def test_the_batcher_writes_by_itself_and_outlives_an_outage() -> None:
    tries, done = list[list[int]](), asyncio.Event()

    async def write(batch: list[int]) -> None:
        tries.append(batch)
        if len(tries) == 1:
            raise RedisConnectionError("gone")
        done.set()

    batcher: Batcher[int] = Batcher(write, "writing", RedisLink())
    loop = asyncio.create_task(batcher.run())
    batcher.add(1)
    batcher.add(2)
    async with asyncio.timeout(5):
        await done.wait()
    loop.cancel()
    assert tries == [[1, 2], [1, 2]]


async def test_two_that_write_at_once_write_each_item_once() -> None:
    written: list[int] = []

    async def write(batch: list[int]) -> None:
        written.extend(batch)
        await asyncio.sleep(0)

    batcher: Batcher[int] = Batcher(write, "writing", RedisLink())
    for number in range(BATCH + 3):
        batcher.add(number)
    await asyncio.gather(batcher.flush(), batcher.flush())
    assert written == [*range(BATCH + 3)]


async def test_what_comes_while_a_batch_is_written_is_written_too() -> None:
    written: list[int] = []

    async def write(batch: list[int]) -> None:
        written.extend(batch)
        if batch == [1]:
            batcher.add(2)

    batcher: Batcher[int] = Batcher(write, "writing", RedisLink())
    batcher.add(1)
    await batcher.flush()
    assert written == [1, 2]


async def test_a_batch_that_was_taken_ends_an_outage() -> None:
    async def write(batch: list[int]) -> None:
        """Take it."""

    link = RedisLink()
    link.failed(RedisConnectionError("gone"), "writing")
    batcher: Batcher[int] = Batcher(write, "writing", link)
    await batcher.flush()
    assert not link.up, "nothing was written"
    batcher.add(1)
    await batcher.flush()
    assert link.up


# --- link


def test_the_link_is_down_until_redis_answers_once() -> None:
    clock = Clock()
    link = RedisLink(clock)
    assert not link.up
    link.ok()
    assert link.up
    link.failed(RedisConnectionError("gone"), "reading")
    assert not link.up
    link.ok()
    assert link.up


@pytest.mark.parametrize("error", [ReadOnlyError("READONLY"), OutOfMemoryError("OOM")])
def test_a_refusal_counts_although_other_commands_are_answered(error: Exception) -> None:
    clock = Clock()
    link = RedisLink(clock)
    link.ok()
    for _ in range(5):
        link.failed(error, "settling")
        link.ok()
        assert not link.up
        clock.now += MAX_DELAY_S
    clock.now += REFUSED_S
    link.ok()
    assert link.up


def test_the_wait_grows_to_a_second_and_starts_anew_after_a_success() -> None:
    link = RedisLink(Clock())
    error = RedisConnectionError("gone")
    waits = [link.failed(error, "reading") for _ in range(9)]
    assert waits[:3] == [0.05, 0.1, 0.2]
    assert waits[-1] == MAX_DELAY_S
    link.ok()
    assert link.failed(error, "reading") == 0.05


def test_one_line_an_outage_is_logged_and_one_when_it_ends(caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    link = RedisLink(clock)
    for _ in range(50):
        link.failed(RedisConnectionError("gone"), "reading")
    assert len(caplog.records) == 1
    clock.now += LOG_EVERY_S
    link.failed(RedisConnectionError("gone"), "reading")
    assert len(caplog.records) == 2
    link.ok()
    assert caplog.records[-1].message == "Redis is back after 10.0 s"


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (TimeoutError(), "(TimeoutError: no answer in time); nothing is lost, trying again; is "),
        (RedisConnectionError("refused"), "trying again; is WORKER_REDIS_DSN right?"),
        (AuthenticationError("WRONGPASS"), "the login in WORKER_REDIS_DSN is refused"),
        (OutOfMemoryError("OOM"), "Redis is full: make room"),
        (ReadOnlyError("READONLY"), "WORKER_REDIS_DSN must lead to the primary"),
    ],
)
def test_a_failure_says_what_to_look_at(caplog: Any, error: Exception, hint: str) -> None:
    RedisLink(Clock()).failed(error, "reading")
    assert hint in caplog.text


def test_a_redis_that_has_answered_is_at_the_right_address(caplog: Any) -> None:
    clock = Clock()
    clock.now = 1.0
    link = RedisLink(clock)
    link.ok()
    link.failed(RedisConnectionError("gone"), "reading")
    assert caplog.messages == [
        "Redis failed while reading (ConnectionError: gone); nothing is lost, trying again"
    ]
    clock.now += LOG_EVERY_S
    link.failed(RedisConnectionError("gone"), "reading")
    assert caplog.messages[-1].endswith("trying again, for 10 s now")


def test_each_change_is_told_once() -> None:
    link, changes = RedisLink(Clock()), list[bool]()
    link.on_change = lambda: changes.append(link.up)
    for _ in range(3):
        link.ok()
    for _ in range(3):
        link.failed(RedisConnectionError("gone"), "reading")
    link.ok()
    assert changes == [True, False, True]


async def test_the_watch_asks_with_a_write_that_changes_nothing() -> None:
    redis, link = FakeRedis(OutOfMemoryError("OOM"), 0), RedisLink()
    watch = asyncio.create_task(link.watch(redis, 3600.0))
    await turn(20)
    assert not link.up
    watch.cancel()
    assert redis.sent[0][:3] == ("ZADD", "arq:queue", "XX")


async def test_the_watch_writes_to_the_queue_which_is_all_that_a_user_may_write_to() -> None:
    redis = FakeRedis()
    redis.default_queue_name = "mail"
    watch = asyncio.create_task(RedisLink().watch(redis, 3600.0))
    await turn(20)
    watch.cancel()
    assert redis.sent[0][:3] == ("ZADD", "mail", "XX")


# --- services


async def test_a_service_that_ends_by_itself_ends_the_wait_with_its_error() -> None:
    async def fails() -> None:
        raise ValueError("broken")

    async def runs() -> None:
        await asyncio.sleep(3600)

    services = Services()
    services.start("good", runs())
    services.start("bad", fails())
    with pytest.raises(WorkerError, match="bad ended") as caught:
        await Services.wait(asyncio.Event(), services)
    assert isinstance(caught.value.__cause__, ValueError)
    await services.cancel()


async def test_a_service_that_just_returns_ends_the_wait_too() -> None:
    async def ends() -> None:
        await asyncio.sleep(0)

    services = Services()
    services.start("short", ends())
    with pytest.raises(WorkerError, match="short ended although nothing stopped it"):
        await Services.wait(asyncio.Event(), Services(), services)


async def test_a_stop_ends_the_wait_and_no_service() -> None:
    async def runs() -> None:
        await asyncio.sleep(3600)

    services, stop = Services(), asyncio.Event()
    running = services.start("long", runs())
    waiting = asyncio.create_task(Services.wait(stop, services))
    await turn(10)
    assert not waiting.done()
    stop.set()
    await waiting
    assert not running.done()
    await services.cancel()


async def test_cancel_waits_until_all_have_ended() -> None:
    ended: list[str] = []

    async def careful() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            ended.append("careful")

    services = Services()
    services.start("careful", careful())
    await turn()
    await services.cancel()
    assert ended == ["careful"]


async def test_finish_raises_the_first_error() -> None:
    async def fails() -> None:
        raise ValueError("broken")

    services = Services()
    services.start("bad", fails())
    with pytest.raises(WorkerError, match="bad failed"):
        await services.finish()


# --- settle


def settler(redis: FakeRedis) -> Settler:
    return Settler(
        redis, RedisLink(), group="workers", consumer="me", queue_name="arq:queue",
        dlq_max_entries=10, streams=["work"],
    )  # fmt: skip


async def test_settling_is_repeated_until_redis_takes_it() -> None:
    redis = FakeRedis(OutOfMemoryError("OOM"), RedisConnectionError("gone"), 1)
    outcome = await settler(redis).retry(delivery(1, data=b"{}"), ValueError("no"), Retry(1.0))
    assert outcome == "retried"
    assert len(redis.sent) == 3


async def test_a_retry_is_due_after_its_delay() -> None:
    redis, began = FakeRedis(), time.time()
    await settler(redis).retry(delivery(1, data=b"{}"), ValueError("no"), Retry(30.0))
    due = int(redis.sent[0][-1]) / 1000
    assert began + 29 < due < time.time() + 31


async def test_settling_gives_up_in_a_drain_since_the_entry_can_be_handed_back() -> None:
    redis = FakeRedis(OutOfMemoryError("OOM"))
    draining = settler(redis)
    draining.draining = True
    with pytest.raises(OutOfMemoryError):
        await draining.retry(delivery(1, data=b"{}"), ValueError("no"), Retry(1.0))


@pytest.mark.parametrize(("reply", "outcome"), [(-1, "lease_lost"), (0, "dead_lettered")])
async def test_only_the_owner_dead_letters(reply: int, outcome: str) -> None:
    redis = FakeRedis(reply)
    entry = delivery(1, data=b"{}")
    assert (
        await settler(redis).set_aside(entry, ValueError("no"), DeadLetter("permanent"), 1)
        == outcome
    )


@pytest.mark.parametrize("decision", [Retry(1.0), DeadLetter("retries")])
async def test_what_has_failed_is_held_no_longer(decision: Retry | DeadLetter) -> None:
    desk, entry = settler(FakeRedis(1)), delivery(1, data=b"{}")
    desk.held[entry.stream][entry.entry_id] = entry
    await desk.failed(entry, Head.of(entry), ValueError("no"), decision)
    assert not desk.held["work"]


@pytest.mark.parametrize(("reason", "attempts"), [("unknown", b"0"), ("retries", b"5")])
async def test_what_is_parked_has_not_been_tried(reason: Any, attempts: bytes) -> None:
    redis = FakeRedis(0)
    entry = delivery(1, data=b"{}")
    await settler(redis).set_aside(entry, ValueError("no"), DeadLetter(reason), 5)
    sent = [part if isinstance(part, bytes) else str(part).encode() for part in redis.sent[0]]
    assert sent[sent.index(b"_attempts") + 1] == attempts


async def test_entries_that_a_full_dead_letter_queue_drops_are_told(caplog: Any) -> None:
    entry = delivery(1, data=b"{}")
    await settler(FakeRedis(3)).set_aside(entry, ValueError("no"), DeadLetter("retries"), 5)
    assert "oldest 3 entries were dropped" in caplog.text


# --- what a message may look like


@pytest.mark.parametrize("retries", [b"-1", b"x", b"", b"9" * 5_000])
def test_a_retry_count_that_is_none_makes_the_message_invalid(retries: bytes) -> None:
    head = Head.of(delivery(1, type=b"work", _retries=retries))
    assert "not a number" in head.problem
    assert head.attempt == 1


def test_counts_of_a_hostile_publisher_do_not_keep_a_message_out_of_the_dlq() -> None:
    failure = deadletter.describe_failure(ValueError("no"), "work", "1-0")
    payload = {"_attempts": "9" * 5_000, "_replays": "x"}
    assert deadletter.dead_letter(payload, failure, "retries", 5)["_attempts"] == "5"
    assert deadletter.replayed(payload)["_replays"] == "1"


def test_every_error_can_be_described_and_written() -> None:
    class UnprintableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    for error in (
        UnprintableError(),
        ValueError("\ud800 lone surrogate"),
        ValueError("x" * 100_000),
    ):
        failure = deadletter.describe_failure(error, "work", "1-0")
        assert failure["_error_type"] == type(error).__name__
        assert len("".join(failure.values()).encode()) < 20_000


def test_errors_that_differ_in_numbers_only_share_a_fingerprint() -> None:
    def of(text: str, event_type: str = "work") -> str:
        return deadletter.fingerprint({"_error": text, "_error_type": "E", "type": event_type})

    assert of("order 42 at 0x7f00dead") == of("order 43 at 0x7f00beef")
    assert of("no stock") != of("no money")
    assert of("no stock", "\udcff") != of("no stock")


def test_a_message_that_calls_itself_a_job_or_often_replayed_is_a_message() -> None:
    error = ValueError("no")
    failure = deadletter.describe_failure(error, "work", "1-0")
    published = {"type": "work", "data": "{}", "_job": "{}", "_history": "x", "_replays": "many"}

    fields = deadletter.dead_letter(published, failure, "retries", 5)
    entry = DeadEntry(EntryId("2-0"), fields)

    assert not entry.is_job
    assert (entry.replays, entry.as_dict()["attempts"], entry.as_dict()["history"]) == (0, 5, [])
