"""Type aliases and protocols shared by the base and by the project's own code."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NewType, Protocol, TypeAlias

if not TYPE_CHECKING:  # type checkers would take any name for an existing one
    from .former_names import __getattr__  # noqa: F401

StreamName: TypeAlias = str
"""Key of a Redis stream, for example ``orders``."""

EntryId = NewType("EntryId", str)
"""Id that Redis gave a stream entry, for example ``1700000000000-0``."""

Payload: TypeAlias = dict[str, str]
"""Decoded fields of a stream entry; names that start with ``_`` are the base's own."""

FieldValue: TypeAlias = str | int | float
"""What one field of a payload may hold before it is written to Redis."""

Ctx: TypeAlias = dict[str, object]
"""The dictionary that arq hands to tasks and hooks; `task_utils` reads it with types."""

JobResult: TypeAlias = object
"""What a task returns: anything that `codec.dumps` can write."""

Dependency: TypeAlias = Callable[[Ctx], Awaitable[object]]
"""A function that makes a resource for tasks and handlers at startup, from ``ctx``."""

Hook: TypeAlias = Callable[[Ctx], Awaitable[None]]
"""An arq life-cycle hook such as ``on_startup``."""

RedisArg: TypeAlias = str | bytes | int | float


class RedisClient(Protocol):
    """The one method of redis-py that the base needs; replies are bytes and lists of bytes.

    redis-py types its replies loosely, so this is where ``Any`` enters; every caller narrows it at
    once.
    """

    async def execute_command(self, *args: RedisArg, **options: Any) -> Any:
        """Send one command and return its reply, or raise `redis.exceptions.RedisError`."""
        ...


class SyncRedisClient(Protocol):
    """The same for code without an event loop."""

    def execute_command(self, *args: RedisArg, **options: Any) -> Any:
        """Send one command and return its reply, or raise `redis.exceptions.RedisError`."""
        ...


Fields: TypeAlias = Mapping[str, FieldValue]
"""Fields on their way into a stream entry."""


@dataclass(frozen=True, slots=True)
class Call:
    """A task and its arguments, type-checked where it is made: ``send_email.job(42)``."""

    function: str
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
