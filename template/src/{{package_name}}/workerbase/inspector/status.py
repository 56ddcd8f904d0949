"""What is in Redis right now: the queue, and whatever each service reports."""

from dataclasses import asdict, dataclass, field
from functools import partial

from ..broker import codec, keys
from ..broker.clock import now_ms
from ..broker.server_info import ServerInfo
from ..config import WorkerConfig
from ..engine.pauses import Pause
from ..engine.sources import MAX_COUNTED, SourceStatus
from ..process.service import ResolvedSettings
from ..types import RedisClient


@dataclass(frozen=True, slots=True)
class Status:
    """All sources of work, those of the services first."""

    redis: str
    server: str
    sources: tuple[SourceStatus, ...]
    info: ServerInfo = field(default_factory=partial(ServerInfo, name="redis"))
    pauses: tuple[Pause, ...] = ()
    worker_alive: bool = True
    """Whether a worker has written the key that ``arq --check`` reads, or read a stream."""

    def as_dict(self) -> dict[str, object]:
        """Return plain data, for ``--json``."""
        return {**asdict(self), "warnings": self.warnings}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What needs attention, as sentences."""
        found = list(self.info.warnings)
        if not self.worker_alive:
            found.append("no worker is alive: nothing is handled until one runs")
        found += [
            f"{source.name}: the {source.missing} does not exist yet; a worker or `groups` makes it"
            for source in self.sources
            if source.missing
        ]
        found += [
            other.warning(source.name)
            for source in self.sources
            for other in source.other_groups
            if other.is_silent
        ]
        return tuple(found)


async def snapshot(redis: RedisClient, settings: ResolvedSettings) -> Status:
    """Ask Redis for the state of all sources.

    Raises:
        redis.exceptions.RedisError: Redis does not answer.
    """
    config = settings.config
    info = await ServerInfo.read(redis)
    sources: list[SourceStatus] = []
    pauses: list[Pause] = []
    for service in settings.services:
        sources += await service.status(redis, config)
        pauses += await service.pauses(redis, config)
    sources.append(await queue_status(redis, config))
    alive = any(source.alive for source in sources) or bool(
        await redis.execute_command("EXISTS", settings.health_check_key)
    )
    return Status(
        redis=str(config.dsn),
        server=info.name,
        sources=tuple(sources),
        info=info,
        pauses=tuple(pauses),
        worker_alive=alive,
    )


async def queue_status(redis: RedisClient, config: WorkerConfig) -> SourceStatus:
    """Return the state of the queue.

    Raises:
        redis.exceptions.RedisError: Redis does not answer.
    """
    queue, now = config.queue_name, await now_ms(redis)
    due = int(await redis.execute_command("ZCOUNT", queue, "-inf", now))
    total = int(await redis.execute_command("ZCARD", queue))
    dead = int(await redis.execute_command("XLEN", keys.dlq(queue)))
    # A job that arq runs is as due as before; one under a lease is due when that ends.
    started = await _running(redis, queue, "-inf", str(now))
    leased = await _running(redis, queue, f"({now}", "+inf")
    return SourceStatus(
        name=queue,
        kind="queue",
        waiting=max(0, due - started),
        in_work=started + leased,
        later=max(0, total - due - leased),
        dead_letters=dead,
    )


async def _running(redis: RedisClient, queue: str, lowest: str, highest: str) -> int:
    """Count the jobs of a range that run, among its first `MAX_COUNTED`: they are there."""
    ids: list[bytes] = await redis.execute_command(
        "ZRANGEBYSCORE", queue, lowest, highest, "LIMIT", 0, MAX_COUNTED
    )
    claimed = [keys.in_progress(queue, codec.decode(job_id)) for job_id in ids]
    return int(await redis.execute_command("EXISTS", *claimed)) if claimed else 0
