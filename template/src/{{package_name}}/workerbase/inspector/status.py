"""What is in Redis right now: the queue, and whatever each service reports."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ..broker import keys
from ..broker.clock import now_ms
from ..config import WorkerConfig
from ..engine.sources import SourceStatus
from ..process.service import ResolvedSettings
from ..types import RedisClient


@dataclass(frozen=True, slots=True)
class Status:
    """All sources of work, those of the services first."""

    redis: str
    server: str
    sources: tuple[SourceStatus, ...]

    def as_dict(self) -> dict[str, object]:
        """Return plain data, for ``--json``."""
        return asdict(self)


async def snapshot(redis: RedisClient, settings: ResolvedSettings) -> Status:
    """Ask Redis for the state of all sources.

    Raises:
        redis.exceptions.RedisError: Redis does not answer.
    """
    config = settings.config
    server = server_name(await redis.execute_command("INFO", "server"))
    sources: list[SourceStatus] = []
    for service in settings.services:
        sources += await service.status(redis, config)
    sources.append(await queue_status(redis, config))
    return Status(redis=str(config.dsn), server=server, sources=tuple(sources))


async def queue_status(redis: RedisClient, config: WorkerConfig) -> SourceStatus:
    """Return the state of the queue; a running job counts as due later.

    Raises:
        redis.exceptions.RedisError: Redis does not answer.
    """
    queue = config.queue_name
    due = int(await redis.execute_command("ZCOUNT", queue, "-inf", await now_ms(redis)))
    total = int(await redis.execute_command("ZCARD", queue))
    dead = int(await redis.execute_command("XLEN", keys.dlq(queue)))
    return SourceStatus(name=queue, kind="queue", waiting=due, later=total - due, dead_letters=dead)


def server_name(info: Mapping[str, object]) -> str:
    """Return name and version of a server from its INFO reply."""
    name = str(info.get("server_name") or "redis")
    return f"{name} {info.get(f'{name}_version') or info.get('redis_version')}"
