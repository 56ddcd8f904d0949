"""What a worker does for its queue twice a second."""

import asyncio
from collections.abc import Callable

import pytest
from arq.worker import async_check_health
from jobkit import QUEUE, client_of, settings_of, until, working
from redis.exceptions import ConnectionError as RedisConnectionError
from workerbase.errors import PermanentError
from workerbase.jobs.upkeep import QueueUpkeep
from workerbase.testing.redis_server import Server
from workerbase.types import Ctx
from workerconfig import Config

ConfigFor = Callable[..., Config]


@pytest.fixture
def config(server: Server, config_for: ConfigFor) -> Config:
    return config_for(server)


async def test_upkeep_outlives_an_outage(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    beats = 0

    async def failing(self: QueueUpkeep) -> None:
        nonlocal beats
        beats += 1
        if beats == 1:
            raise RedisConnectionError("closed")

    monkeypatch.setattr(QueueUpkeep, "record_health", failing)
    async with working(config):
        await until(lambda: beats >= 2, 5)


@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")  # by arq
async def test_arqs_health_check_finds_the_worker_and_what_it_did(config: Config) -> None:
    async def job(ctx: Ctx, number: int) -> None:
        if number:
            raise PermanentError

    redis_settings = settings_of(config).redis_settings
    async with client_of(config) as client:
        async with working(config, job, health_check_interval=0.1) as worker:
            for number in range(2):
                await client.enqueue_job("job", number)

            async def reported() -> bool:
                info = await client.get(f"{QUEUE}:health-check") or b""
                return b"j_complete=1 j_failed=1 j_retried=0 j_ongoing=0 queued=0" in info

            await until(reported)
            assert (worker.executor.complete, worker.executor.failed) == (1, 1)
            assert 0 < await client.pttl(f"{QUEUE}:health-check") <= 1_100
            assert await async_check_health(redis_settings) == 0
        assert await async_check_health(redis_settings) == 1


async def test_the_health_check_key_is_written_once_an_interval_and_logged_when_it_changes(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    async def job(ctx: Ctx) -> None:
        ran.append(1)

    ran: list[int] = []
    caplog.set_level("INFO", logger="workerbase")
    async with client_of(config) as client:
        for interval, written in ((3600, False), (0, True)):
            async with working(config, job, health_check_interval=interval):
                await until(lambda: client.exists(f"{QUEUE}:health-check"))
                assert "recording health" not in caplog.text
                await client.enqueue_job("job")
                await until(lambda: ran.pop() if ran else 0)
                await client.set(f"{QUEUE}:health-check", "another worker's")

                async def overwritten() -> bool:
                    return await client.get(f"{QUEUE}:health-check") != b"another worker's"

                if written:
                    await until(overwritten)
                    await until(lambda: "recording health" in caplog.text)
                else:
                    await asyncio.sleep(1.2)  # two passes
                    assert not await overwritten()
    assert "j_complete=1 j_failed=0 j_retried=0 j_ongoing=0 queued=0" in caplog.text


@pytest.mark.parametrize("key", [QUEUE, "arq:abort"])
async def test_an_id_that_is_not_text_does_not_end_the_worker(config: Config, key: str) -> None:
    done: list[str] = []

    async def job(ctx: Ctx) -> None:
        done.append("job")

    async with client_of(config) as client:
        await client.zadd(key, {b"caf\xe9": 1})
        async with working(config, job, allow_abort_jobs=True):
            await client.enqueue_job("job")
            await until(lambda: done)

            async def settled() -> bool:
                return not await client.zcard(QUEUE)

            await until(settled)
