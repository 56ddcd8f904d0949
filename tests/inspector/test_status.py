"""The status of a worker: its queue, and the sources of every service."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from arq.connections import ArqRedis
from workerbase import BaseArqWorkerSettings, WorkerConfig
from workerbase.broker import keys
from workerbase.engine.sources import SourceStatus, WorkSource
from workerbase.inspector.status import queue_status, snapshot
from workerbase.process.service import Service
from workerbase.process.settings import resolved_settings
from workerbase.streams import Event, EventContext, EventRouter, Streams
from workerbase.testing import Server
from workerbase.types import RedisClient

ConfigFor = Callable[..., WorkerConfig]


class Ping(Event, type="ping", stream="pings"):
    """An event."""


def streams() -> Streams:
    router = EventRouter()

    @router.on(Ping)
    async def on_ping(event: Ping, ctx: EventContext) -> None: ...

    return Streams(router)


class Mailbox(Service):
    name = "mailbox"

    def sources(self, config: WorkerConfig) -> Sequence[WorkSource]:
        return [WorkSource("mailbox", "stream")]

    async def status(self, redis: RedisClient, config: WorkerConfig) -> Sequence[SourceStatus]:
        return [SourceStatus(name="mailbox", kind="stream", waiting=7)]


def settings_with(config: WorkerConfig, *services: Service) -> Any:
    members = {"config": config, "services": services}
    return resolved_settings(type("Settings", (BaseArqWorkerSettings,), members))


async def test_a_worker_without_services_has_a_queue(
    server: Server, client: RedisClient, config_for: ConfigFor
) -> None:
    status = await snapshot(client, settings_with(config_for(server)))
    assert [(source.name, source.kind) for source in status.sources] == [("arq:queue", "queue")]
    assert status.redis == f"127.0.0.1:{server.port}/0"
    assert status.server == server.version


async def test_sources_of_services_come_before_the_queue(
    server: Server, client: RedisClient, config_for: ConfigFor
) -> None:
    settings = settings_with(config_for(server), streams(), Mailbox())
    status = await snapshot(client, settings)
    names = [source.name for source in status.sources]
    assert names == ["pings", "mailbox", "arq:queue"]
    assert names == [source.name for source in settings.sources()]
    written = json.loads(json.dumps(status.as_dict()))
    assert [source["waiting"] for source in written["sources"]] == [0, 7, 0]


async def test_jobs_that_are_due_wait_and_others_come_later(
    client: RedisClient, redis: ArqRedis
) -> None:
    config = WorkerConfig(queue_name="mail")
    await redis.enqueue_job("send", _queue_name="mail")
    await redis.enqueue_job("send", _queue_name="mail", _defer_by=60)
    await redis.enqueue_job("send", _queue_name="mail", _defer_by=90)
    await redis.enqueue_job("send", _queue_name="other")
    await redis.xadd("mail:dlq", {"type": "send"})
    assert await queue_status(client, config) == SourceStatus(
        name="mail", kind="queue", waiting=1, in_work=0, later=2, dead_letters=1
    )


async def test_jobs_that_run_are_in_work_whoever_runs_them(
    client: RedisClient, redis: ArqRedis
) -> None:
    for name, delay in (("arq", 0), ("leased", 10), ("due", 0), ("later", 60)):
        await redis.enqueue_job("send", _queue_name="mail", _job_id=name, _defer_by=delay)
    for name in ("arq", "leased"):
        await redis.set(keys.in_progress("mail", name), "1")
    status = await queue_status(client, WorkerConfig(queue_name="mail"))
    assert (status.waiting, status.in_work, status.later) == (1, 2, 1)


async def test_what_does_not_exist_yet_and_that_no_worker_is_alive_is_told(
    client: RedisClient, redis: ArqRedis, server: Server, config_for: ConfigFor
) -> None:
    settings = settings_with(config_for(server), streams())

    async def warnings() -> str:
        return "\n".join((await snapshot(client, settings)).warnings)

    assert "no worker is alive" in await warnings()
    assert "pings: the stream does not exist yet" in await warnings()
    await redis.xadd("pings", {"type": "ping"})
    assert "pings: the consumer group does not exist yet" in await warnings()
    await redis.xgroup_create("pings", "workers", "0")
    assert "does not exist" not in await warnings()
    assert "no worker is alive" in await warnings()
    await redis.xreadgroup("workers", "somebody", {"pings": ">"})
    assert await warnings() == ""
    await redis.xgroup_delconsumer("pings", "workers", "somebody")
    assert "no worker is alive" in await warnings()
    await redis.set(settings.health_check_key, "x")
    assert await warnings() == ""


def test_rates_follow_from_counts() -> None:
    status = SourceStatus(
        name="s", kind="stream", waiting=3, in_work=2, delivered=10, oldest_waiting_s=1.0,
        oldest_in_work_s=5.0,
    )  # fmt: skip
    assert (status.added, status.settled, status.oldest_s) == (13, 8, 5.0)
    unknown = SourceStatus(name="s", kind="stream", waiting=3)
    assert (unknown.added, unknown.settled, unknown.oldest_s) == (None, None, None)
