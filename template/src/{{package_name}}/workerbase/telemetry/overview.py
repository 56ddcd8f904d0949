# Owned by arq-worker-template: `copier update` overwrites edits; call `overview` instead.
"""What goes on right now: `status`, and who works on what, what comes later, what failed.

One function for whatever shows it. It only reads, names and numbers and never a payload, and
each read is bounded: it takes no longer on a queue of a million.
"""

import contextlib
import re
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix, job_key_prefix, retry_key_prefix
from arq.jobs import Deserializer, SerializationError, deserialize_job_raw

from .. import keys, wire
from ..config import WorkerConfig
from ..dlq import Group, SetAside
from ..events import EventRouter
from ..jobqueue import TRIES_TTL_MS
from ..status import Status, snapshot
from ..types import RedisArg, RedisClient, StreamName

LOOKED_AT = 1_000
"""So many entries are looked at, at the head of a queue and at the new end of a DLQ."""
SHOWN = 50
"""At most so many of a kind are named."""
PLAIN_ARQ = "plain arq"
"""Plain arq's workers leave no name."""

Kind: TypeAlias = Literal["message", "job", "deferred"]
"""A message or job that is tried again, or a job that was never tried and is not due."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process. One that reads no stream is seen only while it has jobs."""

    name: str
    """Host and process id."""
    messages: int
    """Messages that it has: being handled, or waiting in it for their turn."""
    jobs: int
    """The same for jobs."""
    quiet_s: float | None
    """Seconds since it read from a stream or renewed a lease; None if it reads no stream."""


@dataclass(frozen=True, slots=True)
class InFlight:
    """A message or job that a worker has."""

    what: str
    """Its stream or function."""
    id: str
    worker: str
    age_s: float
    """Seconds since a message came into its stream, or since a job was claimed."""
    tries: int
    """Deliveries of the stream entry, or tries of the job; this one counts."""


@dataclass(frozen=True, slots=True)
class Due:
    """What the queue will run later."""

    kind: Kind
    what: str
    """Its stream or function."""
    id: str
    in_s: float


@dataclass(frozen=True, slots=True)
class Later:
    """What is in the queue and not due: retries to come, and jobs that were deferred."""

    total: int
    looked_at: int
    """The counts are of so many, those that are due first."""
    messages: int
    jobs: int
    deferred: int
    first: tuple[Due, ...]


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """A dead-letter queue by error."""

    name: StreamName
    total: int
    newest: str
    """Id of its newest entry; with the same length it means that nothing has changed."""
    looked_at: int
    """The groups are of so many, the newest."""
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """All of it; plain data, `dataclasses.asdict` makes it JSON."""

    at: float
    """Unix time, in seconds."""
    status: Status
    workers: tuple[Worker, ...]
    jobs: int
    """Jobs that workers have, of the `LOOKED_AT` at either end of what is due."""
    in_flight: tuple[InFlight, ...]
    """The oldest messages and jobs."""
    later: Later
    dead: tuple[DeadLetters, ...]


async def overview(
    redis: ArqRedis,
    config: WorkerConfig,
    router: EventRouter | None,
    *,
    loads: Deserializer = wire.loads,
    before: Overview | None = None,
) -> Overview:
    """Ask Redis for what goes on.

    Args:
        redis: an open client.
        config: of the worker.
        router: of the worker.
        loads: reads jobs, for the names of their functions.
        before: the last overview; dead letters that have not changed since are not read again.

    Raises:
        redis.exceptions.RedisError: Redis does not answer.
    """
    client = cast("RedisClient", redis)
    status = await snapshot(client, config, router)
    messages, consumers = await _messages(redis, status, config.consumer_group)
    claimed, jobs, later = await _jobs(redis, config.queue_name, loads)
    dead = await dead_letters(client, status, LOOKED_AT, before.dead if before else ())
    return Overview(
        at=time.time(),
        status=status,
        workers=_workers(consumers, claimed),
        jobs=len(claimed),
        in_flight=tuple(sorted([*messages, *jobs], key=lambda item: -item.age_s)),
        later=later,
        dead=dead,
    )


async def dead_letters(
    redis: RedisClient, status: Status, most: int, before: Iterable[DeadLetters] = ()
) -> tuple[DeadLetters, ...]:
    """Group the dead letters of all streams and of the queue by error.

    Args:
        redis: an open client.
        status: names the queues and says how long they are.
        most: so many of a queue are looked at, the newest.
        before: what was found last; a queue that has not changed since is not read again.

    Raises:
        redis.exceptions.RedisError: Redis does not answer.
    """
    known = {dead.name: dead for dead in before}
    totals = {stream.name: stream.dlq for stream in status.streams}
    totals[status.queue.name] = status.queue.dlq
    targets = [(SetAside.dlq(redis, source), total) for source, total in totals.items()]
    return tuple(
        [await _dead(target, total, most, known.get(target.name)) for target, total in targets]
    )


async def _pipelined(
    redis: ArqRedis, commands: Iterable[tuple[RedisArg, ...]], **options: Any
) -> list[Any]:
    """Send the commands in one round trip; nothing in between is promised."""
    pipe = cast("Any", redis.pipeline(transaction=False))
    for command in commands:
        pipe.execute_command(*command, **options)
    return cast("list[Any]", await pipe.execute())


def _process(name: object) -> str:
    """Return the process that a consumer or a job worker belongs to."""
    text = wire.text(name)
    return PLAIN_ARQ if text == "1" else re.sub("-[0-9a-f]{8}$", "", text)


async def _messages(
    redis: ArqRedis, status: Status, group: str
) -> tuple[list[InFlight], list[dict[str, Any]]]:
    """Return the oldest pending entries, and the rows of XINFO CONSUMERS."""
    names = [stream.name for stream in status.streams if stream.consumers]
    pending = [("XPENDING", name, group, "-", "+", SHOWN) for name in names]
    about = [("XINFO", "CONSUMERS", name, group) for name in names]
    replies = await _pipelined(redis, [*pending, *about], parse_detail=True)
    now = time.time()
    found: list[InFlight] = []
    for name, rows in zip(names, replies, strict=False):
        for row in rows:
            entry_id = wire.text(row["message_id"])
            age = max(0.0, now - int(entry_id.partition("-")[0]) / 1000)
            owner = _process(row["consumer"])
            found.append(InFlight(name, entry_id, owner, age, row["times_delivered"]))
    consumers = [
        {wire.text(name): value for name, value in zip(row[::2], row[1::2], strict=True)}
        for rows in replies[len(names) :]
        for row in rows
    ]
    return found, consumers


async def _jobs(
    redis: ArqRedis, queue: str, loads: Deserializer
) -> tuple[dict[str, str], list[InFlight], Later]:
    """Return the owners of the claimed jobs, the oldest of these, and what comes later."""
    now = int(time.time() * 1000)
    # Ours are due when their lease ends, plain arq's as before they were started (`scripts`).
    head, ahead, coming = await _pipelined(
        redis,
        [
            ("ZRANGE", queue, 0, LOOKED_AT - 1),
            ("ZRANGEBYSCORE", queue, f"({now}", "+inf", "WITHSCORES", "LIMIT", 0, LOOKED_AT),
            ("ZCOUNT", queue, f"({now}", "+inf"),
        ],
    )
    scores = {
        wire.text(job): float(score) for job, score in zip(ahead[::2], ahead[1::2], strict=True)
    }
    ids = [*scores, *({wire.text(job) for job in head} - scores.keys())]
    if not ids:
        return {}, [], Later(0, 0, 0, 0, 0, ())
    owners, counts = await _pipelined(
        redis,
        [
            ("MGET", *(prefix + job for job in ids))
            for prefix in (in_progress_key_prefix, retry_key_prefix)
        ],
    )
    tries = {job: int(count or 0) for job, count in zip(ids, counts, strict=True)}
    claimed = {job: _process(owner) for job, owner in zip(ids, owners, strict=True) if owner}
    # Whoever claims a job counts its try, in a key that lives for so long from then on.
    left = await _pipelined(redis, [("PTTL", retry_key_prefix + job) for job in claimed])
    age = {
        job: max(0, TRIES_TTL_MS - ttl) / 1000 if ttl > 0 else 0.0
        for job, ttl in zip(claimed, left, strict=True)
    }
    oldest = sorted(claimed, key=lambda job: -age[job])[:SHOWN]
    waiting = [job for job in scores if job not in claimed]
    first = waiting[:SHOWN]
    names = await _functions(redis, [*oldest, *first], loads)
    due = [_due(job, names.get(job, ""), tries[job], scores[job] - now) for job in waiting]
    number = Counter(item.kind for item in due)
    return (
        claimed,
        [InFlight(names[job], job, claimed[job], age[job], tries[job]) for job in oldest],
        Later(
            total=coming - (len(scores) - len(waiting)),
            looked_at=len(waiting),
            messages=number["message"],
            jobs=number["job"],
            deferred=number["deferred"],
            first=tuple(due[:SHOWN]),
        ),
    )


def _due(job_id: str, function: str, tries: int, in_ms: float) -> Due:
    in_s = max(0.0, in_ms / 1000)
    if message := keys.REQUEUE_JOB_ID.fullmatch(job_id):
        return Due("message", message["stream"], message["entry_id"], in_s)
    return Due("job" if tries else "deferred", function, job_id, in_s)


async def _functions(redis: ArqRedis, ids: list[str], loads: Deserializer) -> dict[str, str]:
    """Return the functions of jobs by id, "?" where a job is gone or cannot be read."""
    found = dict.fromkeys(ids, "?")
    if not ids:
        return found
    (jobs,) = await _pipelined(redis, [("MGET", *(job_key_prefix + job for job in ids))])
    for job_id, job in zip(ids, jobs, strict=True):
        if job is not None:
            with contextlib.suppress(SerializationError):
                found[job_id] = str(deserialize_job_raw(job, deserializer=loads)[0])
    return found


def _workers(consumers: list[dict[str, Any]], claimed: dict[str, str]) -> tuple[Worker, ...]:
    pending: Counter[str] = Counter()
    quiet: dict[str, float] = {}
    for row in consumers:
        name = _process(row["name"])
        pending[name] += row["pending"]
        quiet[name] = min(quiet.get(name, float("inf")), row["idle"] / 1000)
    jobs = Counter(claimed.values())
    names = sorted({*pending, *jobs}, key=lambda name: (-pending[name] - jobs[name], name))
    return tuple(Worker(name, pending[name], jobs[name], quiet.get(name)) for name in names)


async def _dead(target: SetAside, total: int, most: int, before: DeadLetters | None) -> DeadLetters:
    newest = await target.newest() if total else ""
    if before and (before.total, before.newest) == (total, newest):
        return before
    groups = await target.newest_groups(most) if total else []
    looked_at = sum(group.count for group in groups)
    return DeadLetters(target.name, total, newest, looked_at, tuple(groups))
