"""BaseArqService: enqueueing from inside a worker."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.jobs import Job, JobStatus, SerializationError
from redis.exceptions import ConnectionError as RedisConnectionError
from waiting import until
from workerbase import BaseArqService, WorkerConfig
from workerbase.delivery import clients
from workerbase.errors import ConfigError
from workerbase.testing.redis_server import Server


async def connected(redis: ArqRedis, count: int) -> None:
    """Wait until ``redis`` and ``count`` others are connected: a server notices an end later."""

    async def is_so() -> bool:
        return len(await redis.client_list()) == 1 + count

    await until(is_so, 10, f"{count} other connections")


async def test_the_pool_opens_on_first_use_once_under_concurrency(
    server: Server,
    redis: ArqRedis,
    config_for: Callable[..., WorkerConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[ArqRedis] = []

    def counting(*args: Any) -> ArqRedis:
        opened.append(real(*args))
        return opened[-1]

    real = clients.connect
    monkeypatch.setattr(clients, "connect", counting)
    await connected(redis, 0)
    service = BaseArqService(config_for(server))
    assert opened == []
    await connected(redis, 0)
    jobs = await asyncio.gather(*(service.enqueue_job("work", n) for n in range(30)))
    assert all(isinstance(job, Job) for job in jobs)
    assert await redis.zcard("arq:queue") == 30
    assert len(opened) == 1
    await service.close()
    await connected(redis, 0)


async def test_it_can_be_closed_twice_and_used_again(
    server: Server, redis: ArqRedis, config_for: Callable[..., WorkerConfig]
) -> None:
    service = BaseArqService(config_for(server))
    await service.close()
    for number in (1, 2, 3):
        await service.enqueue_job("work")
        assert await redis.zcard("arq:queue") == number
        await service.close()
        await service.close()


async def test_the_context_manager_opens_and_closes(
    server: Server, redis: ArqRedis, config_for: Callable[..., WorkerConfig]
) -> None:
    await connected(redis, 0)
    async with BaseArqService(config_for(server)) as service:
        await connected(redis, 1)
        await service.init()
        await connected(redis, 1)
    await connected(redis, 0)
    with pytest.raises(KeyError, match="inside"):
        async with service:
            raise KeyError("inside")
    await connected(redis, 0)


async def test_init_raises_where_redis_does_not_answer(
    own_server: Server, config_for: Callable[..., WorkerConfig]
) -> None:
    service = BaseArqService(config_for(own_server))
    own_server.kill()
    with pytest.raises(RedisConnectionError):
        await service.init()
    with pytest.raises(RedisConnectionError):
        await service.enqueue_job("work")
    own_server.start()
    assert await service.enqueue_job("work") is not None
    await service.close()


async def test_a_failed_enqueue_raises_and_is_no_duplicate(
    server: Server, config_for: Callable[..., WorkerConfig]
) -> None:
    async with BaseArqService(config_for(server)) as service:
        with pytest.raises(SerializationError):
            await service.enqueue_job("work", object(), _job_id="same")
        assert await service.enqueue_job("work", 1, _job_id="same") is not None


async def test_none_means_that_a_job_with_this_id_exists(
    server: Server, config_for: Callable[..., WorkerConfig]
) -> None:
    async with BaseArqService(config_for(server)) as service:
        first = await service.enqueue_job("work", _job_id="same")
        assert isinstance(first, Job)
        assert first.job_id == "same"
        assert await service.enqueue_job("other", _job_id="same") is None
        twenty = (service.enqueue_job("work", _job_id="again") for _ in range(20))
        assert sum(job is not None for job in await asyncio.gather(*twenty)) == 1


async def test_arqs_options_are_passed_through(
    server: Server, redis: ArqRedis, config_for: Callable[..., WorkerConfig]
) -> None:
    async with BaseArqService(config_for(server, queue_name="mail")) as service:
        job = await service.enqueue_job("work", 1, key="word", _job_try=3)
        assert job is not None
        info = await job.info()
        assert info is not None
        assert (info.args, info.kwargs, info.job_try) == ([1], {"key": "word"}, 3)
        assert await redis.zscore("mail", job.job_id) is not None

        later = await service.enqueue_job("work", _defer_by=timedelta(hours=1), _queue_name="q2")
        assert later is not None
        assert await later.status() == JobStatus.deferred
        score = await redis.zscore("q2", later.job_id)
        assert score is not None
        # arq rounds to milliseconds.
        assert 3590 < score / 1000 - datetime.now(UTC).timestamp() <= 3600.001

        at = datetime(2040, 1, 1, tzinfo=UTC)
        fixed = await service.enqueue_job("work", _defer_until=at)
        assert fixed is not None
        assert await redis.zscore("mail", fixed.job_id) == at.timestamp() * 1000

        brief = await service.enqueue_job("work", _expires=10)
        assert brief is not None
        assert 9_000 < await redis.pttl(f"arq:job:{brief.job_id}") <= 10_000


async def test_without_a_configuration_the_environment_says_where_redis_is(
    server: Server, redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = BaseArqService()
    monkeypatch.setenv("WORKER_REDIS_DSN", "nonsense")
    with pytest.raises(ConfigError, match="WORKER_REDIS_DSN"):
        await service.enqueue_job("work")
    monkeypatch.setenv("WORKER_REDIS_DSN", server.dsn)
    await service.enqueue_job("work")
    assert await redis.zcard("arq:queue") == 1
    await service.close()


async def test_a_subclass_names_its_jobs(
    server: Server, redis: ArqRedis, config_for: Callable[..., WorkerConfig]
) -> None:
    class Mail(BaseArqService):
        async def welcome(self, user: int) -> Job | None:
            return await self.enqueue_job("welcome", user, _job_id=f"welcome:{user}")

    async with Mail(config_for(server)) as mail:
        assert await mail.welcome(1) is not None
        assert await mail.welcome(1) is None
    assert await redis.zrange("arq:queue", 0, -1) == [b"welcome:1"]
