"""A worker that every release of the base from 1.0.0rc1 on can run.

What it does depends on GOLDEN_* variables: GOLDEN_FAIL makes handlers fail, GOLDEN_SECONDS is how
long they take, and with GOLDEN_LEASED jobs run under leases.
"""

import asyncio
import json
import os
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import click
from workerbase import BaseArqWorkerSettings, Ctx, PermanentError, task
from workerbase.cli import make_cli
from workerbase.delivery import ArqAdapter
from workerbase.jobs import LeasedJobs
from workerbase.streams import Event, EventContext, EventPublisher, EventRouter, Streams
from workerbase.task_utils import job_info

STREAM = "golden"
FAIL = "GOLDEN_FAIL" in os.environ
SECONDS = float(os.environ.get("GOLDEN_SECONDS", "0"))
router = EventRouter()


class Placed(Event, type="golden.placed", stream=STREAM):
    number: int
    name: str = ""


class Invoiced(Event, type="golden.invoiced", stream=STREAM):
    amount: Decimal


async def record(redis: object, **what: object) -> None:
    await redis.rpush("golden:seen", json.dumps(what, default=str, sort_keys=True))  # type: ignore[attr-defined]


@router.on(Placed)
async def on_placed(event: Placed, ctx: EventContext) -> None:
    if FAIL and event.name == "permanent":
        raise PermanentError("it can never work")
    await asyncio.sleep(SECONDS)
    if FAIL or (event.name == "flaky" and ctx.attempt == 1):
        raise RuntimeError("it does not work yet")
    await record(ctx.redis, name=event.name, number=event.number, attempt=ctx.attempt)


if not FAIL:

    @router.on(Invoiced)
    async def on_invoiced(event: Invoiced, ctx: EventContext) -> None:
        await record(ctx.redis, name="parked", amount=event.amount, attempt=ctx.attempt)


@task(backoff=0.1)
async def count(ctx: Ctx, number: int, name: str) -> None:
    await asyncio.sleep(SECONDS)
    attempt = job_info(ctx).attempt
    if name == "flaky" and attempt == 1:
        raise RuntimeError("it does not work yet")
    await record(ctx["redis"], name=f"job {name}", number=number, attempt=attempt)


async def greet(ctx: Ctx, name: str, *, raw: bytes, **rich: object) -> None:
    await record(ctx["redis"], name=name, raw=raw.decode(), **rich)


class Settings(BaseArqWorkerSettings):
    functions = (greet, count)
    services = (Streams(router), *([LeasedJobs()] if "GOLDEN_LEASED" in os.environ else []))


main = make_cli("golden_worker:Settings")


@main.command()
@click.option("--failing", is_flag=True)
def give(failing: bool) -> None:
    """Write what an application writes: an event, a job, and a job for later; or what will fail."""
    if failing:
        names = (Placed(number=7, name=name) for name in ("retried", "permanent"))
        EventPublisher().publish_sync(*names, Invoiced(amount=Decimal("12.50")))
        return
    EventPublisher().publish_sync(Placed(number=7, name="published"))
    rich = {
        "at": datetime(2026, 11, 24, 12, 30, tzinfo=UTC),
        "day": date(2026, 11, 24),
        "wait": timedelta(seconds=90.5),
        "price": Decimal("9.90"),
        "key": UUID(int=7),
        "raw": b"bytes",
        "tags": ["a", "b"],
    }
    jobs = ArqAdapter()
    jobs.enqueue_sync("greet", "now", _job_id="now", **rich)
    asyncio.run(jobs.enqueue("greet", "later", _job_id="later", _defer_by=86400, **rich))


@main.command()
@click.argument("first", type=int)
@click.argument("last", type=int)
def send(first: int, last: int) -> None:
    """Write a message and a job of each number; every tenth fails once."""
    numbered = [(n, "flaky" if n % 10 == 0 else "good") for n in range(first, last)]
    EventPublisher().publish_sync(*(Placed(number=n, name=name) for n, name in numbered))

    async def enqueue() -> None:
        async with ArqAdapter() as jobs:
            for number, name in numbered:
                await jobs.enqueue(count.job(number, name), _job_id=f"count-{number}")

    asyncio.run(enqueue())


if __name__ == "__main__":
    main()
