"""Which steps a Redis Cluster takes, as docs/scaling.md of each project says."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import redis
from redis.exceptions import ResponseError
from servers import binary, free_port
from streamkit import client_of
from waiting import until
from workerbase import BaseArqWorkerSettings, keys, runner, scripts
from workerbase.config import WorkerConfig
from workerbase.devtools.server import Server
from workerbase.errors import ConfigError
from workerbase.types import RedisClient, StreamName

PLAIN, TAGGED = StreamName("orders"), StreamName("{orders}")
GROUP, CONSUMER, QUEUE = "workers", "somebody", "arq:queue"


@pytest.fixture(scope="module")
def cluster_server() -> Iterator[Server]:
    """A cluster of one node: all slots are its own, and it takes no step over two of them."""
    # Else the port of its bus is 10,000 above its own, which may be none.
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with Server(binary=binary("valkey"), options=options) as server:
        with redis.Redis(port=server.port) as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        yield server


@pytest.fixture
async def cluster(cluster_server: Server) -> AsyncIterator[RedisClient]:
    """A client of the cluster, which takes writes a few seconds after its start."""
    async with client_of(cluster_server) as client:

        async def is_ready() -> bool:
            return bool((await client.execute_command("CLUSTER INFO"))["cluster_state"] == "ok")

        await until(is_ready)
        cluster_server.flush()
        yield client


async def read_one(client: RedisClient, stream: StreamName) -> str:
    """Publish an entry, and read it as ``CONSUMER``."""
    await client.execute_command("XGROUP", "CREATE", stream, GROUP, "0", "MKSTREAM")
    (entry_id,) = await scripts.publish(client, [stream], [2, "a", "1"])
    await client.execute_command("XREADGROUP", "GROUP", GROUP, CONSUMER, "STREAMS", stream, ">")
    return str(entry_id.decode())


def set_aside_args(entry_id: str) -> list[str | int]:
    return [GROUP, CONSUMER, entry_id, 10, "a", "1"]


async def test_a_hash_tag_keeps_the_keys_of_a_stream_in_one_slot(cluster: RedisClient) -> None:
    async def slots(stream: StreamName) -> set[int]:
        names = (stream, keys.dlq(stream), keys.parked(stream), keys.requeued(stream, "1-0"))
        return {await cluster.execute_command("CLUSTER KEYSLOT", name) for name in names}

    assert len(await slots(TAGGED)) == 1
    assert len(await slots(PLAIN)) == 4


async def test_a_tagged_stream_can_be_dead_lettered_and_replayed(cluster: RedisClient) -> None:
    entry_id = await read_one(cluster, TAGGED)
    dlq = keys.dlq(TAGGED)

    assert await scripts.set_aside(cluster, [TAGGED, dlq], set_aside_args(entry_id)) == 0

    ((dead, _),) = await cluster.execute_command("XRANGE", dlq, "-", "+")
    assert await scripts.replay(cluster, [dlq, TAGGED], [dead, "a", "1"]) == 1


async def test_a_stream_without_a_tag_cannot(cluster: RedisClient) -> None:
    entry_id = await read_one(cluster, PLAIN)

    with pytest.raises(ResponseError, match="same slot"):
        await scripts.set_aside(cluster, [PLAIN, keys.dlq(PLAIN)], set_aside_args(entry_id))


@pytest.mark.parametrize("stream", [PLAIN, TAGGED])
async def test_no_cluster_takes_a_retry_or_a_job(cluster: RedisClient, stream: StreamName) -> None:
    entry_id = await read_one(cluster, stream)
    job_id = keys.requeue_job_id(stream, entry_id)

    with pytest.raises(ResponseError, match="same slot"):
        await scripts.schedule_retry(
            cluster,
            [stream, f"arq:job:{job_id}", QUEUE],
            [GROUP, CONSUMER, entry_id, job_id, "job", 1],
        )
    with pytest.raises(ResponseError, match="same slot"):
        await scripts.enqueue(
            cluster, ["arq:job:1", "arq:result:1", QUEUE], ["1", "job", 1000, 1, "1"]
        )


async def test_a_worker_refuses_a_cluster_and_leaves_nothing_behind(
    cluster_server: Server, cluster: RedisClient, config_for: Callable[..., WorkerConfig]
) -> None:
    config = config_for(cluster_server)
    settings = type("Settings", (BaseArqWorkerSettings,), {"config": config})

    with pytest.raises(ConfigError, match=r"Cluster.* use one Redis or its Sentinels"):
        await runner.serve(settings)

    assert not (await asyncio.to_thread(Path(config.health_file).exists))
    assert await cluster.execute_command("DBSIZE") == 0
