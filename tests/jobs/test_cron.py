"""Cron: each tick runs exactly once, over workers, restarts and changes of the clocks."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from arq.cron import CronJob, cron
from jobkit import QUEUE, burst, client_of, until, working
from workerbase.broker import keys
from workerbase.broker.enqueue import QueueClient
from workerbase.jobs.cron import enqueue_due
from workerbase.testing.redis_server import Server
from workerbase.types import Ctx
from workerconfig import Config

ConfigFor = Callable[..., Config]


BERLIN = ZoneInfo("Europe/Berlin")


AHEAD = timedelta(seconds=1)


async def nothing(ctx: Ctx) -> None:
    """Do nothing."""


@pytest.fixture
async def client(server: Server, config_for: ConfigFor) -> AsyncIterator[QueueClient]:
    async with client_of(config_for(server)) as found:
        yield found


async def ticks(client: QueueClient) -> list[datetime]:
    """When the enqueued ticks are due, by their ids."""
    ids = sorted(int(job_id.rpartition(b":")[2]) for job_id in await client.zrange(QUEUE, 0, -1))
    return [datetime.fromtimestamp(ms // 1000, UTC) for ms in ids]


async def pass_time(
    client: QueueClient,
    first: datetime | str,
    last: datetime | str,
    *fleets: list[CronJob],
    step: float = 60,
) -> None:
    """Let the workers look every ``step`` seconds from ``first`` to ``last``, as time goes by."""
    now, last = (utc(f"2026-05-01 {t}") if isinstance(t, str) else t for t in (first, last))
    while now <= last:
        for jobs in fleets:
            for _ in range(2):  # the first look of a new worker only reads the clock
                await enqueue_due(client, QUEUE, jobs, now.astimezone(BERLIN), AHEAD)
        now += timedelta(seconds=step)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


async def test_several_workers_enqueue_each_tick_once(client: QueueClient) -> None:
    fleets = [[cron(nothing, second=0)] for _ in range(3)]
    await pass_time(client, "10:00:30", "10:05:30", *fleets, step=10)
    assert await ticks(client) == [utc(f"2026-05-01 10:0{n}:00") for n in range(1, 6)]


async def test_a_late_worker_does_not_run_a_tick_again_that_ran_before(
    client: QueueClient,
) -> None:
    early, late = [cron(nothing, second=0)], [cron(nothing, second=0)]
    await enqueue_due(client, QUEUE, late, utc("2026-05-01 10:00:30").astimezone(BERLIN), AHEAD)
    await pass_time(client, "10:00:30", "10:01:30", early, step=10)
    for job_id in await client.zrange(QUEUE, 0, -1):  # it ran, and nothing is left of it
        await client.delete(QUEUE, b"arq:job:" + job_id)
    await pass_time(client, "10:01:40", "10:01:50", late, step=10)
    assert await ticks(client) == []


async def test_a_tick_that_fell_into_a_restart_is_made_up_for_once(client: QueueClient) -> None:
    before = [cron(nothing, minute={0, 10}, second=0)]
    await pass_time(client, "09:59:30", "10:00:30", before, step=10)
    await client.flushdb()
    await client.set(
        keys.tick(QUEUE, "cron:nothing"), int(utc("2026-05-01 10:00").timestamp() * 1000)
    )
    after = [[cron(nothing, minute={0, 10}, second=0)] for _ in range(2)]
    await pass_time(client, "10:10:40", "10:11:20", *after, step=10)
    assert await ticks(client) == [utc("2026-05-01 10:10:00")]


@pytest.mark.parametrize("restart", [True, False])
async def test_ticks_of_a_longer_outage_are_not_all_made_up_for(
    client: QueueClient, restart: bool
) -> None:
    jobs = [cron(nothing, second=0)]
    await pass_time(client, "10:00:30", "10:01:30", jobs, step=10)
    if restart:
        jobs = [cron(nothing, second=0)]
    await pass_time(client, "11:00:30", "11:01:10", jobs, step=10)
    found = await ticks(client)
    assert found[0] == utc("2026-05-01 10:01:00")
    assert [tick for tick in found if tick > utc("2026-05-01 11:00:00")] == [
        utc("2026-05-01 11:01:00")
    ]
    assert len([tick for tick in found if utc("2026-05-01 10:59:00") < tick]) == 2
    assert len(found) <= 4


SPRING = (utc("2026-03-28 22:59"), utc("2026-03-29 04:01"))  # 02:00 CET becomes 03:00 CEST


AUTUMN = (utc("2026-10-24 21:59"), utc("2026-10-25 03:01"))  # 03:00 CEST becomes 02:00 CET


@pytest.mark.parametrize(("first", "last"), [SPRING, AUTUMN])
@pytest.mark.parametrize("minutes", [{0}, {0, 15, 30, 45}, {7}])
async def test_a_job_of_every_hour_runs_in_every_hour_of_a_day_with_a_change(
    client: QueueClient, first: datetime, last: datetime, minutes: set[int]
) -> None:
    fleets = [[cron(nothing, minute=minutes, second=0)] for _ in range(2)]
    await pass_time(client, first, last, *fleets)
    expected = [
        moment
        for n in range(int((last - first).total_seconds() // 60) + 1)
        if (moment := first + timedelta(minutes=n)).minute in minutes
    ]
    assert await ticks(client) == expected


@pytest.mark.parametrize(
    ("span", "hour", "expected"),
    [
        (SPRING, 2, "2026-03-29 01:30"),  # there is no 02:30: an hour later by the clock
        (SPRING, 3, "2026-03-29 01:30"),
        (AUTUMN, 2, "2026-10-25 00:30"),  # the first of two
        (AUTUMN, 3, "2026-10-25 02:30"),
    ],
)
async def test_a_job_of_one_hour_runs_once_on_a_day_with_a_change(
    client: QueueClient, span: tuple[datetime, datetime], hour: int, expected: str
) -> None:
    fleets = [[cron(nothing, hour=hour, minute=30, second=0)] for _ in range(2)]
    await pass_time(client, *span, *fleets)
    assert await ticks(client) == [utc(expected)]


async def test_a_weekly_schedule_of_every_hour_survives_a_change_in_between(
    client: QueueClient,
) -> None:
    jobs = [cron(nothing, weekday=0, minute=0, second=0)]
    now = datetime(2026, 3, 23, 23, 0, 30, tzinfo=BERLIN)  # Monday; the change is on Sunday
    await enqueue_due(client, QUEUE, jobs, now, AHEAD)
    assert jobs[0].next_run == datetime(2026, 3, 30, 0, 0, 0, 123_456, tzinfo=BERLIN)


async def test_a_schedule_that_is_not_unique_runs_on_each_worker(client: QueueClient) -> None:
    fleets = [[cron(nothing, second=0, unique=False)] for _ in range(2)]
    await pass_time(client, "10:00:30", "10:01:30", *fleets, step=10)
    assert await client.zcard(QUEUE) == 2


async def test_workers_that_run_each_tick_once(server: Server, config_for: ConfigFor) -> None:
    ran: Counter[datetime] = Counter()

    async def tick(ctx: Ctx) -> None:
        ran[datetime.now(UTC).replace(microsecond=0)] += 1

    def crons() -> list[CronJob]:
        return [cron(tick, name="tick", second=None, microsecond=0)]

    config = config_for(server, poll_delay=0.5)
    async with working(config, cron_jobs=crons()), working(config, cron_jobs=crons()):
        await until(lambda: len(ran) == 3)
    async with working(config, cron_jobs=crons()):  # restarted
        await until(lambda: len(ran) >= 4)
    assert set(ran.values()) == {1}


async def test_it_runs_at_startup_if_it_is_to(server: Server, config_for: ConfigFor) -> None:
    ran: list[object] = []

    async def tick(ctx: Ctx) -> None:
        ran.append(ctx["job_try"])

    at_start = cron(tick, name="tick", month=1, day=1, hour=0, minute=0, run_at_startup=True)
    async with working(config_for(server), cron_jobs=[at_start]):
        await until(lambda: ran)
        await asyncio.sleep(0.6)  # another look
    assert ran == [1]


async def test_a_job_id_of_its_own_does_not_keep_the_next_tick_from_running(
    server: Server, config_for: ConfigFor
) -> None:
    ran: list[object] = []

    async def tick(ctx: Ctx) -> None:
        ran.append(ctx["job_id"])

    job = cron(tick, name="tick", second=None, microsecond=0, job_id="own")
    async with working(config_for(server), cron_jobs=[job]):
        await until(lambda: len(ran) == 3, 6)
    assert set(ran) == {"own"}


async def test_a_cron_job_that_raises_is_retried_and_dead_lettered(
    server: Server, config_for: ConfigFor
) -> None:
    attempts: list[object] = []

    async def tick(ctx: Ctx) -> None:
        attempts.append(ctx["job_try"])
        raise ValueError

    config = config_for(server, max_retries=3)
    job: Any = cron(tick, name="tick", hour=0, minute=0, max_tries=3)
    async with client_of(config) as client:
        await client.enqueue_job("tick")
        await burst(config, cron_jobs=[job])
        assert attempts == [1, 2, 3]
        assert await client.xlen("arq:queue:dlq") == 1


async def test_a_tick_is_enqueued_a_little_ahead_and_due_at_its_time(
    server: Server, config_for: ConfigFor
) -> None:
    now = datetime.now(UTC)
    tick = now + timedelta(seconds=30)
    job = cron(nothing, second=0)
    async with client_of(config_for(server)) as client:
        job.next_run = tick
        await enqueue_due(client, QUEUE, [job], now, timedelta(seconds=29))
        assert await client.zcard(QUEUE) == 0
        await enqueue_due(client, QUEUE, [job], now, timedelta(seconds=31))
        ((_, due),) = await client.zrange(QUEUE, 0, -1, withscores=True)
    assert due == int(tick.timestamp() * 1000)
