"""Which steps a Redis Cluster accepts, as docs/scaling.md of each project says."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
import redis
from redis.exceptions import ResponseError
from servers import binary, free_port
from streamkit import (
    GROUP,
    client_of,
    settlement_of,
)
from waiting import until
from workerbase import BaseArqWorkerSettings
from workerbase.broker import keys
from workerbase.broker.enqueue import QueueClient
from workerbase.engine.retry_policy import DeadLetter, Retry
from workerbase.errors import ConfigError
from workerbase.inspector.dead_letters import DeadLetterQueue
from workerbase.process import runner
from workerbase.process.settings import resolved_settings
from workerbase.streams.entry import Delivery
from workerbase.streams.publish import publish_fields
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient, StreamName
from workerconfig import Config

PLAIN, TAGGED = StreamName("orders"), StreamName("{orders}")
CONSUMER = "somebody"


@pytest.fixture(scope="module")
def cluster_server() -> Iterator[Server]:
    """A cluster of one node: all slots are its own, and it refuses a step over two of them."""
    # Else the port of its bus is 10,000 above its own, which may not exist.
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with Server(binary=binary("valkey"), options=options) as server:
        with redis.Redis(port=server.port) as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        yield server


@pytest.fixture
async def cluster(cluster_server: Server) -> AsyncIterator[RedisClient]:
    """A client of the cluster, which accepts writes a few seconds after its start."""
    async with client_of(cluster_server) as client:

        async def is_ready() -> bool:
            return bool((await client.execute_command("CLUSTER INFO"))["cluster_state"] == "ok")

        await until(is_ready)
        cluster_server.flush()
        yield client


async def read_one(client: RedisClient, stream: StreamName) -> Delivery:
    """Publish an entry, and read it as ``CONSUMER``."""
    await client.execute_command("XGROUP", "CREATE", stream, GROUP, "0", "MKSTREAM")
    entry_id = await publish_fields(client, stream, {"type": "a", "data": "{}"})
    await client.execute_command("XREADGROUP", "GROUP", GROUP, CONSUMER, "STREAMS", stream, ">")
    return Delivery(stream, entry_id, [b"type", b"a", b"data", b"{}"])


async def test_a_hash_tag_keeps_the_keys_of_a_stream_in_one_slot(cluster: RedisClient) -> None:
    async def slots(stream: StreamName) -> set[int]:
        names = (stream, keys.dlq(stream), keys.parked(stream), keys.requeued(stream, "1-0"))
        return {await cluster.execute_command("CLUSTER KEYSLOT", name) for name in names}

    assert len(await slots(TAGGED)) == 1
    assert len(await slots(PLAIN)) == 4


async def test_a_tagged_stream_can_be_dead_lettered_and_replayed(cluster: RedisClient) -> None:
    delivery = await read_one(cluster, TAGGED)
    settlement = settlement_of(cluster, CONSUMER, stream=TAGGED, draining=True)

    outcome = await settlement.set_aside(delivery, ValueError("no"), DeadLetter("permanent"), 1)

    assert outcome == "dead_lettered"
    dlq = DeadLetterQueue.of_source(cluster, TAGGED)
    (dead,) = [entry async for entry in dlq.scan()]
    assert await dlq.replay(dead, 3) == "replayed"


async def test_a_stream_without_a_tag_cannot(cluster: RedisClient) -> None:
    delivery = await read_one(cluster, PLAIN)
    settlement = settlement_of(cluster, CONSUMER, stream=PLAIN, draining=True)

    with pytest.raises(ResponseError, match="same slot"):
        await settlement.set_aside(delivery, ValueError("no"), DeadLetter("permanent"), 1)


@pytest.mark.parametrize("stream", [PLAIN, TAGGED])
async def test_a_cluster_refuses_a_retry_or_a_job(cluster: RedisClient, stream: StreamName) -> None:
    delivery = await read_one(cluster, stream)
    settlement = settlement_of(cluster, CONSUMER, stream=stream, draining=True)

    with pytest.raises(ResponseError, match="same slot"):
        await settlement.retry(delivery, ValueError("no"), Retry(0.0))
    with pytest.raises(ResponseError, match="same slot"):
        await cast("QueueClient", cluster).enqueue_job("work")


async def test_a_worker_refuses_a_cluster_and_leaves_nothing_behind(
    cluster_server: Server, cluster: RedisClient, config_for: Callable[..., Config]
) -> None:
    config = config_for(cluster_server)
    settings = resolved_settings(type("Settings", (BaseArqWorkerSettings,), {"config": config}))

    with pytest.raises(ConfigError, match=r"Cluster.* use one Redis or its Sentinels"):
        await runner.serve(settings)

    assert not (await asyncio.to_thread(Path(config.health_file).exists))
    assert await cluster.execute_command("DBSIZE") == 0
