"""Dead jobs: retried, dead-lettered with all that is known of them, replayed and purged."""

import asyncio
import json
import pickle
import sys
from collections.abc import Callable
from typing import Any, cast

import pytest
from arq.jobs import Job, JobStatus
from click.testing import CliRunner
from jobkit import QUEUE, burst, client_of, dead_letters, lasting_keys, settings_of
from workerbase.broker import codec
from workerbase.cli import make_cli
from workerbase.errors import JobFailedError
from workerbase.inspector.dead_letters import DeadLetterQueue
from workerbase.testing.redis_server import Server
from workerbase.types import Ctx, RedisClient
from workerconfig import Config

ConfigFor = Callable[..., Config]


CALLS: list[int] = []


CLI: object = None


@pytest.fixture
def config(server: Server, config_for: ConfigFor) -> Config:
    CALLS.clear()
    return config_for(server, max_retries=3, retry_backoff=0.02, retry_backoff_max=0.04)


async def fails(ctx: Ctx, *args: object, **kwargs: object) -> None:
    CALLS.append(cast("int", ctx["job_try"]))
    raise ValueError(f"no {len(CALLS)}")


async def fine(ctx: Ctx, *args: object) -> str:
    CALLS.append(cast("int", ctx["job_try"]))
    return "fine"


async def test_an_exception_is_retried_and_then_dead_lettered_with_its_history(
    config: Config,
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
        # For arq the job has failed, and nothing else is left of it.
        with pytest.raises(JobFailedError, match="no 3"):
            await job.result(timeout=1)
        assert await job.status() == JobStatus.complete
        assert await lasting_keys(client) == [b"arq:queue:dlq", b"arq:result:job"]


async def test_an_unknown_function_goes_to_the_dlq_and_runs_after_a_replay(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(config) as client:
        job = await client.enqueue_job("fine", 7)
        assert job
        await burst(config, fails)
        (letter,) = await dead_letters(client)
        assert letter.payload["_reason"] == "unknown"
        assert f"is dead-lettered in {QUEUE}:dlq (unknown)" in caplog.text
        redis = cast("RedisClient", client)
        assert await DeadLetterQueue.of_source(redis, QUEUE).replay(letter, 1) == "replayed"
        await burst(config, fine)
        assert await job.result(timeout=1) == "fine"


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


@pytest.mark.parametrize("error", [UnspeakableError(), ValueError("half \ud800 a character")])
async def test_an_error_without_a_text_is_dead_lettered_all_the_same(
    config: Config, error: Exception
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
    config: Config, argument: object
) -> None:
    def loads(job: bytes) -> Any:
        return codec.loads(job) if job.startswith(b"{") else pickle.loads(job)

    pickled: dict[str, Any] = {"job_serializer": pickle.dumps, "job_deserializer": loads}
    async with client_of(config) as client:
        client.job_serializer, client.job_deserializer = pickle.dumps, pickle.loads
        await client.enqueue_job("fails", argument, _job_id="job")
        await asyncio.wait_for(burst(config, fails, **pickled), 10)
        (letter,) = await dead_letters(client)
        assert json.loads(letter.payload["data"])
        redis = cast("RedisClient", client)
        assert (
            await DeadLetterQueue.of_source(redis, QUEUE).replay(letter, 1, pickle.loads)
            == "replayed"
        )
        info = await Job("job", client, _deserializer=pickle.loads).info()
        assert info
        assert type(info.args[0]) is type(argument)


async def test_a_replayed_job_keeps_its_history_and_is_capped(config: Config) -> None:
    async with client_of(config) as client:
        dlq = DeadLetterQueue.of_source(cast("RedisClient", client), QUEUE)
        await client.enqueue_job("fails", _job_id="job")
        await burst(config, fails)
        for replays in range(8):  # more attempts in all than the history keeps
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


async def test_a_dead_job_is_not_replayed_over_one_that_waits(config: Config) -> None:
    async with client_of(config) as client:
        dlq = DeadLetterQueue.of_source(cast("RedisClient", client), QUEUE)
        await client.enqueue_job("fails", 1, _job_id="job")
        await burst(config, fails, keep_result=0)
        (letter,) = await dead_letters(client)
        await client.enqueue_job("fine", 2, _job_id="job")
        assert await dlq.replay(letter, 5) == "exists"
        info = await Job("job", client, _deserializer=codec.loads).info()
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
    command("replay", "--yes")
    assert json.loads(command("ls", "--json"))["arq:queue:dlq"] == []
    asyncio.run(fail("two"))  # runs the replayed one, too
    command("purge", "--yes")
    assert json.loads(command("ls", "--json"))["arq:queue:dlq"] == []
