"""Streams are read in pages, in either order, whatever their length."""

from typing import Any

import pytest
from workerbase.broker.entries import PAGE, pages
from workerbase.types import RedisClient


@pytest.fixture
async def ids(client: RedisClient) -> list[str]:
    """Ids of a stream of two pages and a bit."""
    return [
        (await client.execute_command("XADD", "s", "*", "n", number)).decode()
        for number in range(2 * PAGE + 3)
    ]


async def read(client: RedisClient, **options: Any) -> tuple[list[str], list[int]]:
    found: list[str] = []
    sizes: list[int] = []
    async for page in pages(client, "s", **options):
        found += [entry_id for entry_id, _ in page]
        sizes.append(len(page))
    return found, sizes


async def test_all_entries_come_in_pages_oldest_first(client: RedisClient, ids: list[str]) -> None:
    assert await read(client) == (ids, [PAGE, PAGE, 3])


async def test_the_newest_come_first_if_wanted(client: RedisClient, ids: list[str]) -> None:
    found, _ = await read(client, order="newest")
    assert found == ids[::-1]
    found, sizes = await read(client, order="newest", limit=PAGE + 1)
    assert (found, sizes) == (ids[::-1][: PAGE + 1], [PAGE, 1])


@pytest.mark.parametrize("limit", [0, 1, PAGE, PAGE + 1, 10 * PAGE])
async def test_no_more_than_the_limit_is_read(
    client: RedisClient, ids: list[str], limit: int
) -> None:
    found, _ = await read(client, limit=limit)
    assert found == ids[:limit]


async def test_a_range_has_both_its_ends(client: RedisClient, ids: list[str]) -> None:
    assert (await read(client, start=ids[1], end=ids[3]))[0] == ids[1:4]
    assert (await read(client, start=f"({ids[1]}", end=ids[3]))[0] == ids[2:4]
    assert (await read(client, start=ids[1], end=ids[3], order="newest"))[0] == ids[1:4][::-1]


async def test_fields_are_decoded_and_bytes_survive(client: RedisClient) -> None:
    await client.execute_command("XADD", "s", "1-0", "a", b"\xff", "b", "2")
    (page,) = [page async for page in pages(client, "s")]
    assert page == [("1-0", {"a": "\udcff", "b": "2"})]


async def test_a_missing_stream_has_no_entries(client: RedisClient) -> None:
    assert await read(client) == ([], [0])
