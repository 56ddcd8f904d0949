"""Failures: retried, dead-lettered with all that is known of them, replayed."""

import asyncio
import json
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import pytest
from arq.connections import ArqRedis
from arq.jobs import Job, JobStatus, SerializationError
from arq.worker import Retry as ArqRetry
from arq.worker import RetryJob, func
from click.testing import CliRunner
from jobkit import QUEUE, burst, client_of, dead_letters, read_both, settings_of, until, working
from workerbase import wire
from workerbase.attempt import Attempt
from workerbase.cli import make_cli
from workerbase.config import WorkerConfig
from workerbase.devtools.server import Server
from workerbase.dlq import SetAside
from workerbase.errors import JobFailedError, PermanentError, TransientError
from workerbase.jobs import JobWorker
from workerbase.link import RedisLink
from workerbase.task_utils import task
from workerbase.types import Ctx, RedisClient

ConfigFor = Callable[..., WorkerConfig]
CALLS: list[int] = []
CLI: object = None


@pytest.fixture
def config(server: Server, config_for: ConfigFor) -> WorkerConfig:
    CALLS.clear()
    return config_for(server, max_retries=3, retry_backoff=0.02, retry_backoff_max=0.04)


async def fails(ctx: Ctx, *args: object, **kwargs: object) -> None:
    CALLS.append(cast("int", ctx["job_try"]))
    raise ValueError(f"no {len(CALLS)}")


async def fine(ctx: Ctx, *args: object) -> str:
    CALLS.append(cast("int", ctx["job_try"]))
    return "fine"


async def test_an_exception_is_retried_and_then_dead_lettered_with_its_history(
    config: WorkerConfig,
) -> None:
    async with client_of(config) as client:
        job = await client.enqueue_job("fails", 1, b="x", _job_id="job")
        assert job
        await burst(config, fails)
        assert CALLS == [1, 2, 3]
        (letter,) = await dead_letters(client)
        shown = letter.as_dict()
        assert (shown["type"], shown["reason"], shown["attempts"]) == ("fails", "retries", 3)
        assert json.loads(cast("str", shown["data"])) == {"args": [1], "kwargs": {"b": "x"}}
        assert shown["error"] == "ValueError: no 3"
        assert "in fails" in cast("str", shown["traceback"])
        history = cast("list[dict[str, Any]]", shown["history"])
        assert [(entry["attempt"], entry["error"]) for entry in history] == [
            (1, "ValueError: no 1"), (2, "ValueError: no 2"), (3, "ValueError: no 3"),
        ]  # fmt: skip
        assert (letter.payload["_original_stream"], letter.payload["_id"]) == (QUEUE, "job")
        # For arq the job has failed, and nothing else is left.
        with pytest.raises(JobFailedError, match="no 3"):
            await job.result(timeout=1)
        assert await job.status() == JobStatus.complete
        assert sorted(await client.keys()) == [b"arq:queue:dlq", b"arq:result:job"]


async def test_a_task_cannot_end_the_worker_whatever_it_raises(config: WorkerConfig) -> None:
    class Panic(BaseException):
        """As extensions in other languages raise it."""

    async def panics(ctx: Ctx) -> None:
        raise Panic

    async def fine(ctx: Ctx) -> str:
        return "done"

    async with client_of(config) as client, working(config, panics, fine):
        await client.enqueue_job("panics")
        await until(lambda: dead_letters(client))
        job = await client.enqueue_job("fine")
        assert job
        assert await job.result(timeout=10, poll_delay=0.02) == "done"


async def test_a_run_that_is_thrown_away_has_not_ended(config: WorkerConfig) -> None:
    """As at the end of a loop that a task outlived."""
    ended: list[object] = []

    async def waits(ctx: Ctx) -> None:
        await asyncio.get_running_loop().create_future()

    async def on_job_end(ctx: Ctx) -> None:
        ended.append(ctx["job_id"])

    settings = settings_of(config, waits, on_job_end=on_job_end)
    async with client_of(config) as client:
        await client.enqueue_job("waits")
        worker = JobWorker.of(settings, client, {}, RedisLink())
        (claim,), _ = await worker._queue.claim(1, 1)
        run = worker._attempt(Attempt(claim, worker._codec, claim.job_try))
        run.send(None)
        assert list(worker.job_tasks) == [claim.job_id]
        run.close()
        assert (ended, worker.jobs_failed) == ([], 0)


async def test_the_backoff_is_jittered_and_doubles_to_its_bound(
    server: Server, config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workerbase.jobqueue import JobQueue  # noqa: PLC0415

    delays: list[float] = []
    release = JobQueue.release

    async def noted(self: JobQueue, job_id: str, delay: float = 0.0, **options: Any) -> bool:
        delays.append(delay)
        return await release(self, job_id, 0.0, **options)

    monkeypatch.setattr(JobQueue, "release", noted)
    config = config_for(server, max_retries=40, retry_backoff=1.0, retry_backoff_max=4.0)
    async with client_of(config) as client:
        await client.enqueue_job("fails")
        await burst(config, fails)
    bounds = [1.0, 2.0] + [4.0] * 37
    assert len(delays) == 39
    assert all(0 <= delay <= bound for delay, bound in zip(delays, bounds, strict=True))
    assert len(set(delays)) > 30
    assert max(delays) > 2.0


async def test_the_policy_is_declarable_per_task(config: WorkerConfig) -> None:
    @task(max_retries=2, backoff=0.01, permanent=(KeyError,), timeout=0.05)
    async def own(ctx: Ctx, kind: str) -> None:
        CALLS.append(cast("int", ctx["job_try"]))
        if kind == "slow":
            await asyncio.sleep(5)
        raise KeyError(kind) if kind == "permanent" else ValueError(kind)

    own.name = "own"
    for kind, tries, reason in (
        ("any", 2, "retries"), ("permanent", 1, "permanent"), ("slow", 2, "retries"),
    ):  # fmt: skip
        CALLS.clear()
        async with client_of(config) as client:
            await client.delete("arq:queue:dlq")
            await client.enqueue_job(own.job(kind))
            await burst(config, own)
            (letter,) = await dead_letters(client)
            assert (len(CALLS), letter.payload["_reason"]) == (tries, reason)
    assert letter.error.startswith("TimeoutError")


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (PermanentError("never"), 1),
        (LookupError("settings.permanent_errors"), 1),
        (KeyError("settings.transient_errors"), 3),
        (TransientError("later", delay=0.0), 3),
        (SystemExit(3), 3),
    ],
)
async def test_permanent_errors_end_the_job_at_once(
    config: WorkerConfig, error: BaseException, tries: int
) -> None:
    @task(backoff=0.01, max_retries=3)
    async def raising(ctx: Ctx) -> None:
        CALLS.append(1)
        raise error

    raising.name = "raising"

    async def plain(ctx: Ctx) -> None:
        CALLS.append(1)
        raise error

    for name in ("raising", "plain"):
        CALLS.clear()
        async with client_of(config) as client:
            await client.enqueue_job(name)
            await burst(
                config,
                raising,
                plain,
                permanent_errors=(LookupError,),
                transient_errors=(KeyError,),
            )
            assert len(CALLS) == tries
            (*_, letter) = await dead_letters(client)
            assert letter.payload["_reason"] == ("permanent" if tries == 1 else "retries")


@pytest.mark.parametrize("error", [ArqRetry(0.01), RetryJob(), asyncio.CancelledError()])
async def test_arqs_own_retries_end_in_the_dlq_too_but_not_as_poison(
    config: WorkerConfig, error: BaseException
) -> None:
    async def again(ctx: Ctx) -> None:
        CALLS.append(1)
        raise error

    async with client_of(config) as client:
        await client.enqueue_job("again")
        await burst(config, again)
        (letter,) = await dead_letters(client)
    assert len(CALLS) == 3
    assert letter.payload["_reason"] == "retries"
    assert letter.error == "JobExecutionFailed: max 3 retries exceeded"


async def test_a_cause_of_arqs_retry_is_in_the_history(config: WorkerConfig) -> None:
    async def again(ctx: Ctx) -> None:
        if ctx["job_try"] == 3:
            raise PermanentError("enough")
        raise ArqRetry(0.0) from ValueError("why")

    async with client_of(config) as client:
        await client.enqueue_job("again")
        await burst(config, again)
        (letter,) = await dead_letters(client)
    errors = [entry["error"] for entry in json.loads(letter.payload["_history"])]
    assert errors == ["ValueError: why", "ValueError: why", "PermanentError: enough"]


UNREADABLE = {
    "pickled": pickle.dumps({"t": 1, "f": "fine", "a": (), "k": {}, "et": 1}),
    "garbage": b"\xff\x00\xfe",
    "empty": b"",
    "no object": b"[1]",
    "no fields": b"{}",
    "args": b'{"t":1,"f":"fine","a":5,"k":{},"et":1}',
    "kwargs": b'{"t":1,"f":"fine","a":[],"k":5,"et":1}',
    "tries": b'{"t":"x","f":"fine","a":[],"k":{},"et":1}',
    "time": b'{"t":1,"f":"fine","a":[],"k":{},"et":"x"}',
    "far time": b'{"t":1,"f":"fine","a":[],"k":{},"et":1e300}',
    "endless time": b'{"t":1,"f":"fine","a":[],"k":{},"et":Infinity}',
}

NO_OBJECT = ("pickled", "garbage", "empty", "no object")


@pytest.mark.parametrize("name", UNREADABLE)
async def test_an_unreadable_job_goes_to_the_dlq_byte_for_byte(
    config: WorkerConfig, name: str
) -> None:
    raw = UNREADABLE[name]
    async with client_of(config) as client:
        await client.set("arq:job:bad", raw)
        await client.zadd(QUEUE, {"bad": 1})
        await burst(config, fine)
        (letter,) = await dead_letters(client)
        assert letter.payload["_reason"] == "invalid"
        assert wire.encode(letter.payload["_job"]) == raw or name != "garbage"
        assert await client.zcard(QUEUE) == 0
        # It can be replayed by who mended the serializer; till then it would go round and round.
        dlq = SetAside.dlq(cast("RedisClient", client), QUEUE)
        if name in NO_OBJECT:
            assert await dlq.replay(letter, 5) == "unreadable"
        assert await dlq.replay(letter, 5, bytes) == "replayed"
        await burst(config, fine)
        (letter,) = await dead_letters(client)
        assert letter.replays == (name not in NO_OBJECT)
    assert CALLS == []


@dataclass
class Order:
    number: int


async def test_a_retry_does_not_change_arguments_that_have_no_json_form(
    config: WorkerConfig, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[object, ...]] = []

    async def job(ctx: Ctx, *args: object) -> None:
        seen.append(args)
        raise ValueError("no")

    arguments = (Order(1), {1: "a"}, (1, 2))
    async with client_of(config) as client:
        client.job_serializer = pickle.dumps
        await client.enqueue_job("job", *arguments)
        await burst(config, job, job_deserializer=read_both)
        (letter,) = await dead_letters(client)
    assert seen == [arguments] * 3
    assert letter.payload["_reason"] == "retries"
    assert "cannot be kept: it would change the job's arguments" in caplog.text


async def test_a_job_whose_function_no_letter_can_name_is_dead_lettered_as_invalid(
    config: WorkerConfig,
) -> None:
    async with client_of(config) as client:
        await client.enqueue_job("half \ud800", _job_id="bad")
        await burst(config, fine)
        (letter,) = await dead_letters(client)
        assert (letter.payload["_id"], letter.payload["_reason"]) == ("bad", "invalid")


@pytest.mark.parametrize("keep_result", [-1, 0.0001, 1e30])
async def test_any_time_to_keep_a_result_lets_jobs_end(
    config: WorkerConfig, keep_result: float
) -> None:
    async def odd(ctx: Ctx) -> None:
        CALLS.append(1)

    async with client_of(config) as client:
        await client.enqueue_job("odd", _job_id="odd")
        await client.enqueue_job("fine", _job_id="fine")
        await burst(config, func(odd, name="odd", keep_result=keep_result), fine)
        assert CALLS == [1, 1]
        assert await client.pttl("arq:result:odd") != -1  # for ever
        assert await client.pttl("arq:result:fine") > 0


async def test_an_unknown_function_goes_to_the_dlq_and_runs_after_a_replay(
    config: WorkerConfig, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(config) as client:
        job = await client.enqueue_job("fine", 7)
        assert job
        await burst(config, fails)
        (letter,) = await dead_letters(client)
        assert letter.payload["_reason"] == "unknown"
        assert f"is dead-lettered in {QUEUE}:dlq (unknown)" in caplog.text
        redis = cast("RedisClient", client)
        assert await SetAside.dlq(redis, QUEUE).replay(letter, 1) == "replayed"
        await burst(config, fine)
        assert await job.result(timeout=1) == "fine"


async def test_an_expired_job_fails_as_in_arq_and_is_no_dead_letter(config: WorkerConfig) -> None:
    async with client_of(config) as client:
        job = await client.enqueue_job("fine", _expires=0.001)
        assert job
        await until(lambda: _gone(client, f"arq:job:{job.job_id}"))
        await burst(config, fine)
        with pytest.raises(JobFailedError, match="job expired"):
            await job.result(timeout=1)
        assert await dead_letters(client) == []
    assert CALLS == []


async def _gone(client: ArqRedis, key: str) -> bool:
    return not await client.exists(key)


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


@pytest.mark.parametrize("error", [UnspeakableError(), ValueError("half \ud800 a character")])
async def test_an_error_that_cannot_be_told_is_dead_lettered_all_the_same(
    config: WorkerConfig, error: Exception
) -> None:
    async def raising(ctx: Ctx) -> None:
        raise error

    async with client_of(config) as client:
        await client.enqueue_job("raising")
        await burst(config, raising)
        (letter,) = await dead_letters(client)
        assert letter.payload["_reason"] == "retries"
        assert len(json.loads(letter.payload["_history"])) == 3


CIRCLE: list[object] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    "argument", [{(1, 2): 3}, CIRCLE, object, Unshowable(), "half \ud800", {1, "a"}]
)
async def test_arguments_that_have_no_json_form_are_dead_lettered_all_the_same(
    config: WorkerConfig, argument: object
) -> None:
    def loads(job: bytes) -> Any:
        return wire.loads(job) if job.startswith(b"{") else pickle.loads(job)

    pickled: dict[str, Any] = {"job_serializer": pickle.dumps, "job_deserializer": loads}
    async with client_of(config) as client:
        client.job_serializer, client.job_deserializer = pickle.dumps, pickle.loads
        await client.enqueue_job("fails", argument, _job_id="job")
        await asyncio.wait_for(burst(config, fails, **pickled), 10)
        (letter,) = await dead_letters(client)
        assert json.loads(letter.payload["data"])
        redis = cast("RedisClient", client)
        assert await SetAside.dlq(redis, QUEUE).replay(letter, 1, pickle.loads) == "replayed"
        info = await Job("job", client, _deserializer=pickle.loads).info()
        assert info
        assert type(info.args[0]) is type(argument)


async def test_a_replayed_job_keeps_its_history_and_is_capped(config: WorkerConfig) -> None:
    async with client_of(config) as client:
        dlq = SetAside.dlq(cast("RedisClient", client), QUEUE)
        await client.enqueue_job("fails", _job_id="job")
        await burst(config, fails)
        for replays in range(8):  # more tries in all than the history keeps
            (letter,) = await dead_letters(client)
            assert letter.replays == replays
            assert len(json.loads(letter.payload["_history"])) == min(20, 3 * (replays + 1))
            assert await dlq.replay(letter, replays) == "capped"
            assert await dlq.replay(letter, replays + 1) == "replayed"
            assert await dlq.replay(letter, replays + 1) == "gone"  # once only
            assert await client.zcard(QUEUE) == 1
            assert await client.exists("arq:result:job", "arq:retry:job") == 0
            await burst(config, fails)
    assert CALLS == [1, 2, 3] * 9


async def test_a_dead_job_is_not_replayed_over_one_that_waits(config: WorkerConfig) -> None:
    async with client_of(config) as client:
        dlq = SetAside.dlq(cast("RedisClient", client), QUEUE)
        await client.enqueue_job("fails", 1, _job_id="job")
        await burst(config, fails, keep_result=0)
        (letter,) = await dead_letters(client)
        await client.enqueue_job("fine", 2, _job_id="job")
        assert await dlq.replay(letter, 5) == "exists"
        info = await Job("job", client, _deserializer=wire.loads).info()
        assert info
        assert info.function == "fine"
        assert await dlq.size() == 1
        assert await dlq.purge(letter) is True
        assert await dlq.purge(letter) is False


async def test_the_dlq_is_bounded_and_says_when_it_drops(
    server: Server, config_for: ConfigFor, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_for(server, max_retries=1, dlq_max_entries=3)
    async with client_of(config) as client:
        for number in range(5):
            await client.enqueue_job("fails", number)
        await burst(config, fails)
        assert len(await dead_letters(client)) == 3
    assert "is full" in caplog.text
    assert "may run twice" not in caplog.text


def test_the_command_line_shows_replays_and_purges_dead_jobs(
    server: Server, config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(server, max_retries=1)
    monkeypatch.setattr(sys.modules[__name__], "CLI", settings_of(config, fails))

    def command(*words: str) -> str:
        cli = make_cli(f"{__name__}:CLI")
        result = CliRunner().invoke(cli, ["dlq", *words])
        assert result.exit_code == 0, result.output
        return result.output

    async def fail(job_id: str) -> None:
        async with client_of(config) as client:
            await client.enqueue_job("fails", 42, _job_id=job_id)
            await burst(config, fails)

    asyncio.run(fail("one"))
    (group,) = json.loads(command("ls", "--json"))["arq:queue:dlq"]
    assert (group["event_type"], group["count"]) == ("fails", 1)
    (entry,) = json.loads(command("show", "--json"))
    assert json.loads(entry["data"])["args"] == [42]
    assert [failure["attempt"] for failure in entry["history"]] == [1]
    command("replay")
    assert json.loads(command("ls", "--json"))["arq:queue:dlq"] == []
    asyncio.run(fail("two"))  # runs the replayed one, too
    command("purge", "--yes")
    assert json.loads(command("ls", "--json"))["arq:queue:dlq"] == []


async def test_hooks_that_raise_are_reported_and_the_worker_lives(
    config: WorkerConfig, caplog: pytest.LogCaptureFixture
) -> None:
    async def hook(ctx: Ctx) -> None:
        raise RuntimeError("hook")

    async with (
        client_of(config) as client,
        working(config, fine, on_job_start=hook, on_job_end=hook, after_job_end=hook) as worker,
    ):
        jobs = [await client.enqueue_job("fine") for _ in range(3)]
        assert [await job.result(timeout=5) for job in jobs if job] == ["fine"] * 3
        await until(lambda: not worker.tasks)
    for name in ("on_job_start", "on_job_end", "after_job_end"):
        assert caplog.text.count(f"{name} of job") == 3


async def test_a_result_that_cannot_be_written_ends_the_job_once(config: WorkerConfig) -> None:
    async def odd(ctx: Ctx) -> object:
        CALLS.append(1)
        return object()

    async with client_of(config) as client:
        job = await client.enqueue_job("odd")
        assert job
        await burst(config, odd)
        with pytest.raises(SerializationError, match="unable to serialize result"):
            await job.result(timeout=1)
        assert await dead_letters(client) == []
    assert CALLS == [1]


async def test_a_serializer_that_always_raises_ends_the_job_without_a_result(
    config: WorkerConfig,
) -> None:
    def broken(value: object) -> bytes:
        raise RuntimeError("broken")

    async with client_of(config) as client:
        job = await client.enqueue_job("fine")
        assert job
        await burst(config, fine, job_serializer=broken)
        assert await job.status() == JobStatus.not_found
        assert await client.keys() == []
    assert CALLS == [1]


async def test_a_requeue_that_fails_is_tried_for_ever_and_then_puts_the_message_back(
    config: WorkerConfig,
) -> None:
    async with client_of(config) as client:
        await client.set("work", "no stream")  # XADD is refused
        await client.enqueue_job(
            "requeue_to_stream", "work", {"type": "x", "_entry_id": "1-1"}, _job_id="requeue"
        )
        async with working(config, poll_delay=0.05):

            async def tried() -> bool:
                await client.zadd(QUEUE, {"requeue": 1}, xx=True)
                return int(await client.get("arq:retry:requeue") or 0) > 7

            await until(tried)
            await client.delete("work")

            async def back() -> list[Any]:
                await client.zadd(QUEUE, {"requeue": 1}, xx=True)
                return await client.xrange("work")

            ((_, fields),) = await until(back)
            assert fields[b"_retries"] == b"1"
        assert await client.zcard(QUEUE) == 0
        assert await dead_letters(client) == []
