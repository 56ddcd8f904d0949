"""The work of demo and chaos: messages or jobs that succeed, fail or kill their worker."""

import asyncio
import importlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Literal, Protocol, TypeAlias

from pydantic import BaseModel

from ..broker import keys
from ..broker.enqueue import QueueClient
from ..config import WorkerConfig
from ..errors import PermanentError
from ..monitor import Kind
from ..process.service import Service
from ..process.task import AnyFunction
from ..types import Payload, RedisClient

ItemKind: TypeAlias = Literal["good", "flaky", "toxic", "permanent", "killer"]
"""``flaky`` fails twice, ``toxic`` always, ``permanent`` with a PermanentError; ``killer`` kills
its worker."""

FLAKY_FAILURES = 2


class Item(BaseModel):
    """One message or job."""

    number: int
    kind: ItemKind = "good"
    seconds: float = 0.0
    """How long it takes."""


class Workload(Protocol):
    """A way to send items to a worker and to find out their outcome."""

    name: str
    """Plural, for reports."""
    kind: Kind
    source: str
    """The stream or queue."""
    group: str
    """The consumer group; empty for a queue."""
    record: str
    """Hash of item number to the number of times it was done."""
    config_type: type[WorkerConfig]
    demo_settings: Mapping[str, object]
    """Settings of the demo's worker, beside those that every demo has."""

    @property
    def survives_kills(self) -> bool:
        """Whether an item that kills its worker again and again leaves a dead letter."""
        ...

    def services(self) -> Sequence[Service]:
        """Return the services that a worker needs for it."""
        ...

    def functions(self, attempts: int) -> Sequence[AnyFunction]:
        """Return the functions that a worker needs for it, with a limit of attempts."""
        ...

    async def send(self, client: QueueClient, items: Sequence[Item]) -> None:
        """Send items; those that Redis did not confirm may have been sent."""
        ...

    async def send_strange(self, client: QueueClient) -> Mapping[str, int]:
        """Send what cannot be read; return how many of ``invalid`` and of ``unknown`` type."""
        ...

    def item_of(self, dead_letter: Payload) -> Item:
        """Return the item of a dead letter."""
        ...

    async def waiting(self, client: QueueClient) -> set[int]:
        """Return the numbers of the items that are in Redis and not done."""
        ...

    async def is_settled(self, client: QueueClient) -> bool:
        """Return whether nothing waits or runs."""
        ...

    async def holds(self, client: QueueClient, pid: int) -> bool:
        """Return whether a worker process still holds any of it."""
        ...


async def perform(redis: RedisClient, record: str, item: Item, attempt: int) -> None:
    """Do an item: take its time, then succeed, fail or die as its kind says."""
    await asyncio.sleep(item.seconds)
    if item.kind == "toxic" or (item.kind == "flaky" and attempt <= FLAKY_FAILURES):
        msg = "the warehouse does not answer"
        raise TimeoutError(msg)
    if item.kind == "permanent":
        msg = "no such account"
        raise PermanentError(msg)
    if item.kind == "killer":
        os._exit(9)
    await redis.execute_command("HINCRBY", record, item.number, 1)


def find(module: str) -> ModuleType | None:
    """Import a module of a feature, given relative to this package; None if it was not chosen."""
    package = __name__.rpartition(".")[0]
    name = importlib.util.resolve_name(module, package)
    spec = importlib.util.find_spec(name)
    # A folder that holds nothing but caches is a namespace package, which has no origin.
    return importlib.import_module(name) if spec is not None and spec.origin else None


def group_of(service: int) -> str:
    """Return the consumer group of a service, numbered from 0."""
    return f"demo-{service + 1}" if service else "demo"


def queue_of(service: int) -> str:
    """Return the queue of a service: each has its own, as projects do."""
    return f"demo-{service + 1}:jobs" if service else keys.DEFAULT_QUEUE


def environment_of(service: int) -> Mapping[str, str]:
    """Return the environment variables in which the workers of services differ."""
    return {"WORKER_CONSUMER_GROUP": group_of(service), "WORKER_QUEUE_NAME": queue_of(service)}


def workloads(services: int = 1) -> list[Workload]:
    """Return what this project can run: messages if it has streams, for each service, and jobs."""
    from .jobs import Jobs  # noqa: PLC0415 - jobs imports this module

    found: list[Workload] = []
    if messages := find(".messages"):
        found += [messages.Messages(group_of(n), queue_of(n)) for n in range(services)]
    return [*found, Jobs()]
