"""The report of the chaos run: a test that cannot fail would prove nothing."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from rich.console import Console
from workerbase.broker import codec, keys
from workerbase.broker.enqueue import QueueClient
from workerbase.broker.keys import DEFAULT_QUEUE as QUEUE
from workerbase.devtools import chaos
from workerbase.devtools import jobs as jobs_module
from workerbase.devtools.chaos import Plan
from workerbase.devtools.chaos_report import Report, Tally, report_table
from workerbase.devtools.jobs import Jobs
from workerbase.devtools.messages import GROUP, STREAM, Messages, record_of
from workerbase.devtools.workload import Item, ItemKind, perform
from workerbase.errors import PermanentError
from workerbase.streams import publish_fields
from workerbase.testing.redis_server import Server
from workerbase.types import Ctx, RedisClient

RAN = jobs_module.RECORD
HANDLED = record_of(GROUP)

PLAN = Plan(
    messages=4, jobs=4, workers=1, producers=1, kill=0.0, restart=0.0, toxic=0.0, killers=0,
    lease=1.0, seed=7, timeout=5.0,
)  # fmt: skip


def items(*numbers: int, kind: ItemKind = "good") -> list[Item]:
    return [Item(number=number, kind=kind) for number in numbers]


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
    for workload in run.workloads:
        await workload.send(run.redis, items(0, 1))
    # Message 2 waits for its retry, message 3 is dead; job 2 is dead, job 3 is nowhere.
    two, three = items(2, 3)
    dead_job = codec.dumps({"args": [Item(number=2, kind="toxic").model_dump()], "kwargs": {}})
    payload = {"data": two.model_dump_json()}
    await run.redis.enqueue_job("requeue_to_stream", STREAM, payload, _job_id="retry")
    await run.redis.xadd(keys.dlq(STREAM), {"data": three.model_dump_json()})
    await run.redis.xadd(keys.dlq(QUEUE), {"data": dead_job})
    await run.redis.zadd(QUEUE, {"without a body": 1})
    await run.redis.hset(HANDLED, "0", 2)
    await run.redis.set("left behind", 1)
    await run.redis.expire(HANDLED, 60)
    await run.count()
    report = run.report
    messages, jobs = report.tallies["messages"], report.tallies["jobs"]
    assert (messages.handled, messages.duplicates) == (1, 1)
    assert (messages.unfinished, messages.lost) == (2, 0)
    assert (messages.dead_lettered, messages.dead_lettered_good) == (1, 1)
    assert (jobs.unfinished, jobs.dead_lettered, jobs.lost) == (2, 1, 1)
    assert "left behind" in report.leftover_keys
    assert not report.passed
    plain = report.as_dict()
    assert plain["passed"] is False
    assert isinstance(plain["jobs"], dict)
    assert plain["jobs"]["lost"] == 1
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
    assert not await Jobs().holds(run.redis, 7)
    await run.redis.zadd(QUEUE, {"job": 9e15})
    await run.redis.set("arq:in-progress:job", "host-7-abc")
    assert await Jobs().holds(run.redis, 7)
    assert not await Jobs().holds(run.redis, 8)
    await publish_fields(run.client, STREAM, {"a": "b"})
    await run.redis.xreadgroup(GROUP, "host-7-abc", {STREAM: ">"})
    assert await Messages().holds(run.redis, 7)
    assert not await Messages().holds(run.redis, 8)
    own_server.kill()
    assert not await run.settled()
    await run.redis.aclose(close_connection_pool=True)


async def test_what_redis_did_not_confirm_is_sent_again(server: Server, tmp_path: Path) -> None:
    run = chaos._Run(PLAN, server, str(tmp_path))
    sent: list[int] = []

    class Unreliable(Jobs):
        async def send(self, client: QueueClient, items: Sequence[Item]) -> None:
            if not sent:
                sent.append(-1)
                raise RedisConnectionError("gone")
            sent.extend(item.number for item in items)

    await run.produce(Unreliable(), items(*range(25)))
    assert sent == [-1, *range(25)]
    await run.redis.aclose(close_connection_pool=True)


def test_kinds_are_dealt_in_the_order_of_the_seed(server: Server, tmp_path: Path) -> None:
    plan = Plan(100, 0, 1, 1, 0.0, 0.0, 0.05, 3, 1.0, 7, 5.0)
    dealt = [chaos._Run(plan, server, str(tmp_path)).deal(Messages(), 100) for _ in range(2)]
    kinds = [item.kind for item in dealt[0]]
    assert [item.kind for item in dealt[1]] == kinds
    assert (kinds.count("killer"), kinds.count("toxic"), kinds.count("good")) == (3, 5, 92)


def test_what_cannot_survive_kills_is_given_no_killers(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Jobs, "survives_kills", property(lambda _: False))
    plan = Plan(100, 100, 1, 1, 0.0, 0.0, 0.05, 3, 1.0, 7, 5.0)
    run = chaos._Run(plan, server, str(tmp_path))
    killers = {
        one.name: [item.kind for item in dealt].count("killer") for one, dealt in run.work.items()
    }
    assert killers == {"messages": 3, "jobs": 0}
    assert run.good == 92 + 95


@pytest.mark.parametrize("passed", [True, False])
def test_the_table_says_whether_something_was_lost(passed: bool) -> None:
    jobs = Tally(5, lost=0 if passed else 2)
    report = Report("valkey 9", {"messages": Tally(1_234, handled=1_234), "jobs": jobs})
    if not passed:
        report.leftover_keys = ["one", "two"]
        report.recovery_s = [1.0, 2.0, 9.0]
    with Path(os.devnull).open("w") as nowhere:
        console = Console(width=100, record=True, file=nowhere)
        console.print(report_table(report))
        text = console.export_text()
    assert ("nothing lost" in text) == passed
    assert ("FAILED" in text) != passed
    assert "1,234" in text
    assert ("median 2.0 s, longest 9.0 s" in text) != passed
    assert ("one, two" in text) != passed


async def test_an_item_succeeds_fails_or_kills_its_worker_as_its_kind_says(
    client: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths: list[int] = []

    def die(code: int) -> None:
        deaths.append(code)
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", die)
    ctx: Ctx = {"redis": client}
    for _ in range(2):
        await jobs_module.work(ctx, Item(number=7).model_dump())
    for kind in ("toxic", "flaky"):
        with pytest.raises(TimeoutError):
            await jobs_module.work(ctx, Item(number=8, kind=kind).model_dump())
    with pytest.raises(PermanentError):
        await perform(client, HANDLED, Item(number=9, kind="permanent"), 1)
    with pytest.raises(SystemExit):
        await perform(client, HANDLED, Item(number=9, kind="killer"), 1)
    await perform(client, HANDLED, Item(number=1), 1)
    await perform(client, HANDLED, Item(number=2, kind="flaky"), 3)
    assert deaths == [9]
    assert await client.execute_command("HGETALL", RAN) == {b"7": b"2"}
    assert await client.execute_command("HGETALL", HANDLED) == {b"1": b"1", b"2": b"1"}
