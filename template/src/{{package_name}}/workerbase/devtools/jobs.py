"""The workload of jobs, under leases where the project has leased jobs, else under arq's worker."""

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

from arq.jobs import Job

from ..broker import codec, keys
from ..broker.enqueue import QueueClient
from ..config import WorkerConfig
from ..monitor import Kind
from ..process.service import Service
from ..process.task import AnyFunction
from ..task_utils import get_redis, job_info, task
from ..types import Ctx, Payload, RedisClient
from .workload import Item, find, perform

TASK = "work"
RECORD = "chaos:ran"


async def work(ctx: Ctx, item: dict[str, Any]) -> None:
    """Do one item."""
    redis = cast("RedisClient", get_redis(ctx))
    await perform(redis, RECORD, Item.model_validate(item), job_info(ctx).attempt)


class Jobs:
    """Items as jobs of the default queue."""

    name = "jobs"
    kind: Kind = "job"
    source = keys.DEFAULT_QUEUE
    group = ""
    record = RECORD
    demo_settings: Mapping[str, object] = MappingProxyType({})

    def __init__(self) -> None:
        self._leased = find("..jobs")
        self.config_type: type[WorkerConfig] = (
            self._leased.LeasedJobsConfig if self._leased else WorkerConfig
        )

    @property
    def survives_kills(self) -> bool:
        """Whether a job that kills its worker is dead-lettered within seconds, not minutes."""
        return self._leased is not None

    def services(self) -> Sequence[Service]:
        """Return leased jobs, if the project has them."""
        return (cast("Service", self._leased.LeasedJobs()),) if self._leased else ()

    def functions(self, attempts: int) -> Sequence[AnyFunction]:
        """Return the task."""
        return (task(max_retries=attempts)(work),)

    async def send(self, client: QueueClient, items: Sequence[Item]) -> None:
        """Enqueue items."""
        for item in items:
            await client.enqueue_job(TASK, item.model_dump(), _job_id=f"item-{item.number}")

    async def send_strange(self, client: QueueClient) -> Mapping[str, int]:
        """Send nothing: messages show what becomes of what cannot be read."""
        del client
        return {}

    def item_of(self, dead_letter: Payload) -> Item:
        """Return the item of a dead letter."""
        data = cast("dict[str, Any]", codec.loads(codec.encode(dead_letter["data"])))
        return Item.model_validate(data["args"][0])

    async def waiting(self, client: QueueClient) -> set[int]:
        """Return the items of the jobs in the queue."""
        found: set[int] = set()
        redis = cast("RedisClient", client)
        for job_id in await redis.execute_command("ZRANGE", self.source, 0, -1):
            job = await Job(job_id.decode(), client, _deserializer=codec.loads).info()
            if job is not None and job.function == TASK:
                found.add(Item.model_validate(job.args[0]).number)
        return found

    async def is_settled(self, client: QueueClient) -> bool:
        """Return whether the queue is empty."""
        return not await client.zcard(self.source)

    async def holds(self, client: QueueClient, pid: int) -> bool:
        """Return whether a worker process has leases; arq's own worker leaves no name."""
        now = time.time() * 1000
        redis = cast("RedisClient", client)
        job_ids: list[bytes] = await redis.execute_command(
            "ZRANGEBYSCORE", self.source, now, "+inf"
        )
        if not job_ids:
            return False
        owners = await client.mget(
            [keys.in_progress(self.source, codec.decode(job_id)) for job_id in job_ids]
        )
        return any(b"-%d-" % pid in owner for owner in owners if owner)
