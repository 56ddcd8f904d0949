"""What a Redis server says about itself, and what of that endangers messages."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from ..types import RedisClient

FULL_SHARE = 0.8
"""Share of its memory from which a server counts as nearly full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """One server."""

    name: str
    """Name and version, such as ``valkey 8.1.4``."""
    role: str = "master"
    """``master`` or ``slave``, as Redis calls a primary and its replicas."""
    used_bytes: int = 0
    """Memory in use."""
    max_bytes: int = 0
    """``maxmemory``; 0 for no limit."""
    policy: str = "noeviction"
    """``maxmemory-policy``: which keys are deleted at the limit."""

    @classmethod
    async def read(cls, redis: RedisClient) -> Self:
        """Ask a server.

        Raises:
            redis.exceptions.RedisError: it does not answer.
        """
        return cls.from_info(await redis.execute_command("INFO"))

    @classmethod
    def from_info(cls, info: Mapping[str, object]) -> Self:
        """Read a reply to INFO; hosted servers leave some of it out."""
        name = str(info.get("server_name") or "redis")
        version = info.get(f"{name}_version") or info.get("redis_version")
        return cls(
            name=f"{name} {version}",
            role=str(info.get("role", "master")),
            used_bytes=int(str(info.get("used_memory", 0))),
            max_bytes=int(str(info.get("maxmemory", 0))),
            policy=str(info.get("maxmemory_policy", "noeviction")),
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What endangers messages and jobs, and what to do about it."""
        found: list[str] = []
        if self.max_bytes and self.policy != "noeviction":
            found.append(
                f"Redis deletes keys when it is full (maxmemory-policy {self.policy}), messages "
                "and jobs among them: set it to noeviction"
            )
        if self.max_bytes and self.used_bytes >= FULL_SHARE * self.max_bytes:
            found.append(
                f"Redis uses {self.used_bytes / self.max_bytes:.0%} of its maxmemory: raise it, or "
                "make room (`dlq purge`)"
            )
        if self.role == "slave":
            found.append(
                "Redis is a replica and accepts no writes: WORKER_REDIS_DSN must lead to the "
                "primary"
            )
        return tuple(found)
