"""The prefetch queue by itself: how much it fetches, and what starts next."""

import asyncio
from dataclasses import dataclass

import pytest
from workerbase.leasing.prefetch_queue import MAX_HELD_BYTES, WOKEN_AT_ONCE, PrefetchQueue


@dataclass(eq=False)
class Item:
    number: int
    started: bool = False
    size: int = 0


async def turn(count: int = 5) -> None:
    """Let the other tasks run until they wait."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_new_queue_fetches_hardly_more_than_there_are_slots() -> None:
    assert 20 <= await PrefetchQueue[Item](20, 500).room() <= 21


async def test_fast_work_lets_the_queue_fetch_ahead_and_slow_work_does_not() -> None:
    queue = PrefetchQueue[Item](20, 500)
    for number in range(400):
        queue.add([Item(number)])
        queue.take()
        queue.done(0.0001)
    assert await queue.room() == 520
    for number in range(400):
        queue.add([Item(number)])
        queue.take()
        queue.done(5.0)
    assert await queue.room() == 20


async def test_running_items_leave_less_room() -> None:
    queue = PrefetchQueue[Item](4, 0)
    queue.add([Item(number) for number in range(3)])
    for _ in range(3):
        queue.take()
    assert await queue.room() == 1


async def test_items_are_fetched_in_large_batches_while_some_wait() -> None:
    queue = PrefetchQueue[Item](20, 500)
    queue._mean_s = 1e-4
    queue.add([Item(number) for number in range(300)])
    reader = asyncio.create_task(queue.room())
    await turn()
    assert not reader.done(), "220 of 520 are not worth a round trip yet"
    for _ in range(40):
        queue.take()
        queue.done(1e-4)
    assert await reader >= 260


async def test_a_paused_queue_fetches_nothing_until_it_is_unpaused() -> None:
    queue = PrefetchQueue[Item](2, 0)
    queue.pause()
    reader = asyncio.create_task(queue.room())
    await turn()
    assert not reader.done()
    queue.unpause()
    assert await reader == 2


async def test_items_start_in_their_order() -> None:
    queue = PrefetchQueue[Item](3, 0)
    items = [Item(number) for number in range(3)]
    queue.add(items)
    assert [queue.take() for _ in range(4)] == [*items, None]


async def test_waiting_slots_are_woken_only_for_items_that_may_start() -> None:
    queue, woken = PrefetchQueue[Item](3, 0), list[int]()

    async def slot(number: int) -> None:
        while True:
            await queue.wait()
            woken.append(number)

    slots = [asyncio.create_task(slot(number)) for number in range(3)]
    await turn()
    queue.pause()
    queue.add([Item(1)])
    await turn()
    assert woken == []
    queue.unpause()
    await turn()
    assert woken == [0]
    for task in slots:
        task.cancel()
    await asyncio.gather(*slots, return_exceptions=True)


async def test_only_lost_items_are_dropped() -> None:
    queue = PrefetchQueue[Item](3, 0)
    items = [Item(number) for number in range(3)]
    queue.add(items)
    queue.drop({items[1]})
    assert [queue.take() for _ in range(3)] == [items[0], items[2], None]


async def test_a_closed_queue_forgets_waiting_items() -> None:
    queue = PrefetchQueue[Item](3, 0)
    queue.add([Item(1)])
    queue.close()
    assert len(queue) == 0


async def test_the_reader_waits_for_room_and_is_woken_by_it() -> None:
    queue = PrefetchQueue[Item](1, 0)
    queue.add([Item(1)])
    reader = asyncio.create_task(queue.room())
    await turn()
    assert not reader.done()
    queue.take()
    await turn()
    assert not reader.done()
    queue.done(1.0)
    assert await reader == 1


async def test_the_reader_is_woken_for_one_free_slot_where_nothing_waits() -> None:
    queue = PrefetchQueue[Item](4, 0)
    queue.add([Item(number) for number in range(4)])
    for _ in range(4):
        queue.take()
    reader = asyncio.create_task(queue.room())
    await turn()
    queue.done(1.0)
    async with asyncio.timeout(5):
        assert await reader == 1


async def test_the_reader_is_woken_when_the_waiting_items_are_lost() -> None:
    queue = PrefetchQueue[Item](1, 0)
    waiting = Item(1)
    queue.add([waiting])
    reader = asyncio.create_task(queue.room())
    await turn()
    queue.drop({waiting})
    async with asyncio.timeout(5):
        assert await reader == 1
    assert len(queue) == 0


async def test_a_paused_queue_starts_only_the_exclusive_item() -> None:
    queue = PrefetchQueue[Item](2, 0)
    queue.add([Item(1)])
    queue.pause()
    assert queue.take() is None
    alone = Item(2)
    starting = asyncio.create_task(queue.start_exclusively(alone))
    await turn()
    assert not starting.done()
    assert queue.take() is alone
    assert alone.started
    await starting
    assert queue.take() is None
    idle = asyncio.create_task(queue.wait_idle(None))
    await turn()
    assert not idle.done()
    queue.done(1.0)
    await idle
    queue.unpause()
    started = queue.take()
    assert started is not None
    assert started.number == 1


async def test_a_cancelled_exclusive_start_leaves_nothing_behind() -> None:
    queue = PrefetchQueue[Item](1, 0)
    starting = asyncio.create_task(queue.start_exclusively(Item(1)))
    await turn()
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    assert queue.take() is None
    assert queue.running == 0


async def test_a_closed_queue_stays_closed() -> None:
    queue = PrefetchQueue[Item](1, 0)
    queue.add([Item(1)])
    queue.close()
    queue.unpause()
    queue.add([Item(2)])
    assert queue.take() is None


@pytest.mark.parametrize("count", range(12))
async def test_one_slot_wakes_for_each_item(count: int) -> None:
    queue, woken = PrefetchQueue[Item](10, 0), list[int]()

    async def slot(number: int) -> None:
        await queue.wait()
        woken.append(number)
        assert queue.take() is not None
        await asyncio.sleep(3600)

    slots = [asyncio.create_task(slot(number)) for number in range(10)]
    await turn()
    queue.add([Item(number) for number in range(count)])
    for _ in range(10):
        await turn()
    assert woken == list(range(min(count, 10)))
    for task in slots:
        task.cancel()
    await asyncio.gather(*slots, return_exceptions=True)


async def test_slots_that_are_not_needed_sleep_on() -> None:
    queue, woken = PrefetchQueue[Item](10, 0), set[int]()

    async def slot(number: int) -> None:
        while True:
            await queue.wait()
            woken.add(number)
            while queue.take() is not None:  # the handler waits for nothing
                pass

    slots = [asyncio.create_task(slot(number)) for number in range(10)]
    await turn()
    queue.add([Item(number) for number in range(100)])
    for _ in range(10):
        await turn()
    assert len(queue) == 0
    assert len(woken) <= 1 + 2 * WOKEN_AT_ONCE
    for task in slots:
        task.cancel()
    await asyncio.gather(*slots, return_exceptions=True)


@pytest.mark.parametrize("count", [1, 2])
async def test_a_slot_that_is_cancelled_as_it_wakes_up_leaves_its_item_to_another(
    count: int,
) -> None:
    queue, taken = PrefetchQueue[Item](3, 0), list[Item | None]()

    async def slot() -> None:
        await queue.wait()
        taken.append(queue.take())

    slots = [asyncio.create_task(slot()) for _ in range(3)]
    await turn()
    items = [Item(number) for number in range(count)]
    queue.add(items)
    slots[0].cancel()
    await turn()
    assert taken == items
    for task in slots:
        task.cancel()
    await asyncio.gather(*slots, return_exceptions=True)


async def test_large_items_leave_less_room_and_one_always_fits() -> None:
    mb = 1024 * 1024
    queue = PrefetchQueue[Item](100, 500)
    assert await queue.room() <= MAX_HELD_BYTES // 1_000_000, "the first sizes are not known"
    queue.add([Item(number, size=2 * mb) for number in range(20)])
    queue._mean_s = 1e-4
    items = [queue.take() for _ in range(20)]
    assert await queue.room() <= (MAX_HELD_BYTES - 40 * mb) // mb
    queue.add([Item(1, size=100 * mb)])
    reader = asyncio.create_task(queue.room())
    await turn()
    assert not reader.done()
    for item in items:
        queue.done(1e-4, item.size if item else 0)
    queue.take()
    queue.done(1e-4, 100 * mb)
    assert await reader >= 1
    assert queue._held_bytes == 0
    queue.add([Item(2, size=100 * MAX_HELD_BYTES)])
    queue.take()
    queue.done(1e-4, 100 * MAX_HELD_BYTES)
    assert await queue.room() == 1


async def test_what_is_dropped_or_started_exclusively_is_counted_once() -> None:
    queue = PrefetchQueue[Item](2, 10)
    first, second = Item(1, size=10), Item(2, size=20)
    queue.add([first, second])
    assert queue._held_bytes == 30
    queue.drop({first})
    assert queue._held_bytes == 20
    starting = asyncio.create_task(queue.start_exclusively(Item(3, size=40)))
    await turn()
    assert queue.take() is not None
    await starting
    assert queue._held_bytes == 60
    queue.close()
    assert queue._held_bytes == 40
