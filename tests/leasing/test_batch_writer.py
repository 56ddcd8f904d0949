"""Writes in batches: each item once confirmed, in order, through outages."""

import asyncio

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from workerbase.broker.availability import RedisAvailability
from workerbase.leasing.batch_writer import MAX_BATCH, BatchWriter


async def test_it_writes_by_itself_and_survives_an_outage() -> None:
    attempts, done = list[list[int]](), asyncio.Event()

    async def write(batch: list[int]) -> None:
        attempts.append(batch)
        if len(attempts) == 1:
            raise RedisConnectionError("gone")
        done.set()

    writer: BatchWriter[int] = BatchWriter(write, "writing", RedisAvailability())
    loop = asyncio.create_task(writer.run())
    writer.add(1)
    writer.add(2)
    async with asyncio.timeout(5):
        await done.wait()
    loop.cancel()
    assert attempts == [[1, 2], [1, 2]]


async def test_concurrent_flushes_write_each_item_once() -> None:
    written: list[int] = []

    async def write(batch: list[int]) -> None:
        written.extend(batch)
        await asyncio.sleep(0)

    writer: BatchWriter[int] = BatchWriter(write, "writing", RedisAvailability())
    for number in range(MAX_BATCH + 3):
        writer.add(number)
    await asyncio.gather(writer.flush(), writer.flush())
    assert written == [*range(MAX_BATCH + 3)]


async def test_items_added_during_a_write_are_written_too() -> None:
    written: list[int] = []

    async def write(batch: list[int]) -> None:
        written.extend(batch)
        if batch == [1]:
            writer.add(2)

    writer: BatchWriter[int] = BatchWriter(write, "writing", RedisAvailability())
    writer.add(1)
    await writer.flush()
    assert written == [1, 2]


async def test_an_accepted_batch_ends_an_outage() -> None:
    async def write(batch: list[int]) -> None:
        """Accept it."""

    availability = RedisAvailability()
    availability.record_failure(RedisConnectionError("gone"), "writing")
    writer: BatchWriter[int] = BatchWriter(write, "writing", availability)
    await writer.flush()
    assert not availability.up, "nothing was written"
    writer.add(1)
    await writer.flush()
    assert availability.up


async def test_what_redis_did_not_confirm_is_written_again_in_order() -> None:
    written: list[list[int]] = []
    refusals = [RedisConnectionError("gone")]

    async def write(batch: list[int]) -> None:
        if refusals:
            raise refusals.pop()
        written.append(list(batch))

    writer: BatchWriter[int] = BatchWriter(write, "writing", RedisAvailability())
    for number in range(3):
        writer.add(number)
    with pytest.raises(RedisConnectionError):
        await writer.flush()
    await writer.flush()
    assert written == [[0, 1, 2]]
    await writer.flush()
    assert len(written) == 1


async def test_items_are_written_in_batches_of_limited_size() -> None:
    sizes: list[int] = []

    async def write(batch: list[int]) -> None:
        sizes.append(len(batch))

    writer: BatchWriter[int] = BatchWriter(write, "writing", RedisAvailability())
    for number in range(2 * MAX_BATCH + 1):
        writer.add(number)
    await writer.flush()
    assert sizes == [MAX_BATCH, MAX_BATCH, 1]


async def test_it_knows_whether_it_runs() -> None:
    async def write(batch: list[int]) -> None: ...

    writer: BatchWriter[int] = BatchWriter(write, "writing", RedisAvailability())
    assert not writer.running
    loop = asyncio.create_task(writer.run())
    await asyncio.sleep(0)
    assert writer.running
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    assert not writer.running


async def test_what_redis_did_not_confirm_is_repeated_as_the_same_batch() -> None:
    batches: list[list[int]] = []

    async def write(batch: list[int]) -> None:
        batches.append(batch)
        if len(batches) == 1:
            writer.add(3)
            raise ConnectionError

    writer = BatchWriter(write, "testing", RedisAvailability())
    writer.add(1)
    writer.add(2)
    with pytest.raises(ConnectionError):
        await writer.flush()
    await writer.flush()
    assert batches == [[1, 2], [1, 2], [3]]
