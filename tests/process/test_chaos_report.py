"""The report of the chaos run: a test that cannot fail would prove nothing."""

import os
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from rich.console import Console
from workerbase import keys
from workerbase.devtools import chaos, chaos_worker
from workerbase.devtools.chaos import GROUP, HANDLED, QUEUE, RAN, STREAM, Plan, Report, Tally, Work
from workerbase.devtools.server import Server
from workerbase.types import Ctx, RedisClient

PLAN = Plan(
    messages=4, jobs=4, workers=1, producers=1, kill=0.0, restart=0.0, toxic=0.0, killers=0,
    lease=1.0, seed=7, timeout=5.0,
)  # fmt: skip


def work(*numbers: int, kind: str = "good") -> list[Work]:
    return [Work(number=number, kind=kind) for number in numbers]


@pytest.mark.parametrize(
    ("times", "dead", "waiting", "problems"),
    [
        ({0: 1, 1: 2}, {2: "toxic"}, set[int](), {}),
        ({0: 1, 1: 1}, {2: "good"}, set[int](), {"dead_lettered_good": 1}),
        ({0: 1}, {2: "toxic"}, set[int](), {"lost": 1}),
        ({0: 1}, {2: "toxic"}, {1}, {"unfinished": 1}),
        ({0: 1, 1: 1}, {2: "toxic"}, {1}, {}),
    ],
)
def test_what_is_missing_is_lost_or_unfinished(
    times: dict[int, int], dead: dict[int, str], waiting: set[int], problems: dict[str, int]
) -> None:
    tally = Tally(3)
    tally.count(times, dead, waiting)
    assert tally.duplicates == (1 if times == {0: 1, 1: 2} else 0)
    names = ("dead_lettered_good", "lost", "unfinished")
    assert {n: getattr(tally, n) for n in names if getattr(tally, n)} == problems
    assert tally.passed == (not problems)


async def test_all_that_is_left_in_redis_is_counted(server: Server, tmp_path: Path) -> None:
    run = chaos._Run(PLAN, server, str(tmp_path))
    await run.publish(work(0, 1))
    await run.enqueue(work(0, 1))
    # Message 2 waits for its retry, message 3 is dead; job 2 is dead, job 3 is nowhere.
    two, three = work(2, 3)
    payload = {"data": two.model_dump_json()}
    await run.redis.enqueue_job("requeue_to_stream", STREAM, payload, _job_id="retry")
    await run.redis.xadd(keys.dlq(STREAM), {"data": three.model_dump_json()})
    await run.redis.xadd(keys.dlq(QUEUE), {"data": '{"args": [2, "toxic"], "kwargs": {}}'})
    await run.redis.zadd(QUEUE, {"without a body": 1})
    await run.redis.hset(HANDLED, "0", 2)
    await run.redis.set("left behind", 1)
    await run.redis.expire(HANDLED, 60)
    await run.count()
    report = run.report
    assert (report.messages.handled, report.messages.duplicates) == (1, 1)
    assert (report.messages.unfinished, report.messages.lost) == (2, 0)
    assert (report.messages.dead_lettered, report.messages.dead_lettered_good) == (1, 1)
    assert (report.jobs.unfinished, report.jobs.dead_lettered, report.jobs.lost) == (2, 1, 1)
    assert "left behind" in report.leftover_keys
    assert not report.passed
    assert report.as_dict()["passed"] is False
    assert await run.handled() == 1
    assert RAN not in report.leftover_keys
    await run.redis.aclose(close_connection_pool=True)


async def test_it_is_settled_only_when_nothing_waits_and_redis_says_so(
    own_server: Server, tmp_path: Path
) -> None:
    run = chaos._Run(PLAN, own_server, str(tmp_path))
    await run.redis.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    assert not await run.settled()
    await run.redis.hset(HANDLED, mapping={str(n): 1 for n in range(4)})
    await run.redis.hset(RAN, mapping={str(n): 1 for n in range(4)})
    assert await run.settled()
    await run.redis.zadd(QUEUE, {"job": 1})
    assert not await run.settled()
    await run.redis.delete(QUEUE)
    assert not await run.holds_jobs(7)
    await run.redis.zadd(QUEUE, {"job": 9e15})
    await run.redis.set("arq:in-progress:job", "host-7-abc")
    assert await run.holds_jobs(7)
    assert not await run.holds_jobs(8)
    own_server.kill()
    assert not await run.settled()
    await run.redis.aclose(close_connection_pool=True)


async def test_what_redis_did_not_confirm_is_sent_again(server: Server, tmp_path: Path) -> None:
    run = chaos._Run(PLAN, server, str(tmp_path))
    sent: list[int] = []

    async def send(part: list[Work]) -> None:
        if not sent:
            sent.append(-1)
            raise RedisConnectionError("gone")
        sent.extend(item.number for item in part)

    await run.produce(send, work(*range(25)))
    assert sent == [-1, *range(25)]
    await run.redis.aclose(close_connection_pool=True)


def test_kinds_are_dealt_in_the_order_of_the_seed(server: Server, tmp_path: Path) -> None:
    plan = Plan(100, 0, 1, 1, 0.0, 0.0, 0.05, 3, 1.0, 7, 5.0)
    dealt = [chaos._Run(plan, server, str(tmp_path)).deal(100) for _ in range(2)]
    kinds = [item.kind for item in dealt[0]]
    assert [item.kind for item in dealt[1]] == kinds
    assert (kinds.count("killer"), kinds.count("toxic"), kinds.count("good")) == (3, 5, 92)


@pytest.mark.parametrize("passed", [True, False])
def test_the_table_says_whether_something_was_lost(passed: bool) -> None:
    report = Report("valkey 9", Tally(1_234, handled=1_234), Tally(5, lost=0 if passed else 2))
    if not passed:
        report.leftover_keys = ["one", "two"]
        report.recovery_s = [1.0, 2.0, 9.0]
    with Path(os.devnull).open("w") as nowhere:
        console = Console(width=100, record=True, file=nowhere)
        console.print(chaos.report_table(report))
        text = console.export_text()
    assert ("nothing lost" in text) == passed
    assert ("FAILED" in text) != passed
    assert "1,234" in text
    assert ("median 2.0 s, longest 9.0 s" in text) != passed
    assert ("one, two" in text) != passed


async def test_a_message_or_job_of_chaos_works_fails_or_dies_as_it_says(
    client: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths: list[int] = []

    def die(code: int) -> None:
        deaths.append(code)
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", die)
    ctx: Ctx = {"redis": client}
    for _ in range(2):
        await chaos_worker.job(ctx, 7, "good")
    with pytest.raises(ValueError, match="toxic"):
        await chaos_worker.job(ctx, 8, "toxic")
    with pytest.raises(SystemExit):
        await chaos_worker.work(client, HANDLED, 9, "killer")
    await chaos_worker.work(client, HANDLED, 1, "good")
    assert deaths == [9]
    assert await client.execute_command("HGETALL", RAN) == {b"7": b"2"}
    assert await client.execute_command("HGETALL", HANDLED) == {b"1": b"1"}
