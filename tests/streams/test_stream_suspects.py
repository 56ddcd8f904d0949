"""Which suspects start beside which others, and what a death is evidence of."""

import asyncio
from collections.abc import Callable

import pytest
from streamkit import (
    GROUP,
    STREAM,
    Work,
    abandon,
    consuming,
    entries,
    make_group,
    owners,
    read_as,
    send,
)
from waiting import until
from workerbase.broker import codec, keys
from workerbase.streams import EventContext, EventRouter
from workerbase.streams.suspects import SHRINK, Expired, Note, startable
from workerbase.testing.redis_server import Server
from workerbase.types import EntryId, RedisClient
from workerconfig import Config

ConfigFor = Callable[..., Config]
NOTES = keys.suspects(STREAM, GROUP)


def expired(entry_id: str, deliveries: int, company: int = 0, *, starting: bool = False) -> Expired:
    return Expired(EntryId(entry_id), deliveries, 3, Note(company, starting))


def chosen(*candidates: Expired, running: tuple[Expired, ...] = (), at_most: int = 99) -> list[str]:
    return [entry.entry_id for entry in startable(candidates, running, at_most)]


@pytest.mark.parametrize("note", [Note(), Note(20), Note(0, starting=True), Note(7, starting=True)])
def test_a_note_is_read_as_it_was_written(note: Note) -> None:
    assert Note.parse(str(note).encode()) == note
    assert Note.parse(None) == Note()


def test_without_a_death_beside_others_suspects_start_together_and_the_last_deliveries_last() -> (
    None
):
    found = (expired("poison", 3), expired("last", 2), expired("once", 1), expired("released", 0))
    assert chosen(*found) == ["poison", "once", "released", "last"]
    assert chosen(*found, at_most=2) == ["poison", "once"]


def test_what_died_beside_many_runs_beside_fewer_and_then_alone() -> None:
    of_20 = [expired(str(number), 2, 20) for number in range(20)]
    assert len(chosen(*of_20)) == 20 // SHRINK
    of_5 = [expired(str(number), 2, 5) for number in range(5)]
    assert len(chosen(*of_5)) == 1
    assert chosen(*of_5, *of_20) == [entry.entry_id for entry in of_20[:5]], "the innocent first"


def test_nothing_joins_a_suspect_that_must_be_alone() -> None:
    alone = expired("alone", 2, 2)
    assert chosen(expired("once", 1), expired("last", 2), running=(alone,)) == []
    assert chosen(expired("released", 0), running=(alone,)) == ["released"]
    assert chosen(alone, running=(expired("once", 1),)) == []


def test_what_died_in_its_first_moment_starts_before_all_other_suspects() -> None:
    likely = expired("likely", 2, starting=True)
    assert chosen(expired("once", 1), likely) == ["likely", "once"]
    assert chosen(likely, running=(expired("once", 1),)) == []


async def test_a_single_suspect_is_counted_on_its_last_delivery_while_new_messages_run(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    router, running, go_on = EventRouter(), set[int](), asyncio.Event()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        running.add(event.number)
        await go_on.wait()

    await make_group(each)
    (suspect,) = await send(each, 0)
    await read_as(each, "dead")
    await abandon(each, suspect, 2)
    async with consuming(router, config_for(each_server, max_deliveries=3)) as consumer:
        try:
            await until(lambda: 0 in running)
            (new,) = await send(each, 1)
            await until(lambda: running == {0, 1})
            held = await owners(each)
            assert held == {suspect: (consumer.name, 3), new: (consumer.name, 1)}
        finally:
            go_on.set()
        await until(lambda: consumer.counts["handled"] == 2)


async def test_suspects_beside_each_other_are_not_counted_on_their_last_delivery(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    router, seen, go_on = EventRouter(), list[int](), asyncio.Event()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        seen.append(ctx.deliveries)
        await go_on.wait()

    await make_group(each)
    ids = await send(each, 0, 1, 2)
    await read_as(each, "dead")
    for entry_id in ids:
        await abandon(each, entry_id, 2)
    async with consuming(router, config_for(each_server, max_deliveries=3)) as consumer:
        try:

            async def noted() -> bool:
                notes = await each.execute_command("HVALS", NOTES)
                return [codec.decode(note) for note in notes] == ["3 0"] * 3

            await until(noted)
            assert set((await owners(each)).values()) == {(consumer.name, 2)}
            assert seen == [3, 3, 3]
            assert await each.execute_command("PTTL", NOTES) > 0
        finally:
            go_on.set()
        await until(lambda: consumer.counts["handled"] == 3)
    assert await entries(each, keys.dlq(STREAM)) == []


async def test_a_stop_takes_back_no_delivery_that_ended_in_a_death(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    """Whether the suspect has started, counted or not, or waits for the one that runs."""
    router, started = EventRouter(), list[int]()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        started.append(event.number)
        await asyncio.sleep(3600)

    await make_group(each)
    ids = await send(each, 0, 1, 2)
    await read_as(each, "dead")
    for entry_id in ids:
        await abandon(each, entry_id, 2)
    config = config_for(each_server, max_deliveries=3, concurrency=2, drain_timeout=0.1)
    for _ in range(2):
        started.clear()
        async with consuming(router, config):
            await until(lambda: len(started) == 2)
        assert [deliveries for _, deliveries in (await owners(each)).values()] == [2, 2, 2]
