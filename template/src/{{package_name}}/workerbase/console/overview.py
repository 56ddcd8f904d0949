"""A live overview: `status`, and which worker runs what, what is due later, what failed.

It only reads, and shows names and numbers but never a payload. Each read is bounded, so that it
takes no longer on a queue of a million.
"""

import contextlib
import re
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from arq.connections import ArqRedis
from arq.jobs import Deserializer, SerializationError, deserialize_job_raw

from ..broker import codec, keys
from ..broker.keys import ATTEMPTS_TTL_MS
from ..inspector.dead_letters import DeadLetterSummary, summarize
from ..inspector.status import Status, snapshot
from ..process.service import ResolvedSettings
from ..types import RedisClient
from .pipeline import pipelined

MAX_EXAMINED = 1_000
"""Maximum number of entries that are read at the head of a queue and at the new end of a DLQ."""
MAX_SHOWN = 50
"""Maximum number of items of a kind that are listed."""
PLAIN_ARQ = "arq"
"""Stands for arq's own workers, which leave no name."""

Kind: TypeAlias = Literal["message", "job", "deferred"]
"""A message or job that is retried, or a job that has not run and is not due."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process. One that reads no stream is visible only while it has jobs."""

    name: str
    """Host and process id."""
    messages: int
    """Number of messages that it holds: in work, or prefetched."""
    jobs: int
    """Number of jobs that it holds."""
    quiet_s: float | None
    """Seconds since it read from a stream or renewed a lease; None if it reads no stream."""


@dataclass(frozen=True, slots=True)
class InFlight:
    """A message or job that a worker holds."""

    what: str
    """Its stream or function."""
    id: str
    worker: str
    age_s: float
    """Seconds since a message was added to its stream, or since a job was claimed."""
    attempt: int
    """Deliveries of the stream entry, or attempts of the job, the current one included."""


@dataclass(frozen=True, slots=True)
class Due:
    """A job of the queue that is due later."""

    kind: Kind
    what: str
    """Its stream or function."""
    id: str
    in_s: float


@dataclass(frozen=True, slots=True)
class Later:
    """What is in the queue and not due: retries, and deferred jobs."""

    total: int
    examined: int
    """Number of items that the counts cover: those that are due first."""
    messages: int
    jobs: int
    deferred: int
    first: tuple[Due, ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """The overview as plain data, which `dataclasses.asdict` prepares for JSON."""

    at: float
    """Unix time, in seconds."""
    status: Status
    workers: tuple[Worker, ...]
    jobs: int
    """Number of jobs that workers hold, among the `MAX_EXAMINED` on either side of now."""
    in_flight: tuple[InFlight, ...]
    """The oldest messages and jobs."""
    later: Later
    dead: tuple[DeadLetterSummary, ...]


async def overview(
    client: ArqRedis, settings: ResolvedSettings, *, before: Overview | None = None
) -> Overview:
    """Read the overview from Redis.

    Args:
        client: an open client.
        settings: of the worker.
        before: the last overview; dead letters that have not changed since are not read again.

    Raises:
        redis.exceptions.RedisError: Redis does not answer.
    """
    redis = cast("RedisClient", client)
    status = await snapshot(redis, settings)
    group = str(getattr(settings.config, "consumer_group", ""))  # where the worker has streams
    messages, consumers = await _messages(client, status, group)
    queue, loads = settings.config.queue_name, settings.job_deserializer
    claimed, jobs, later = await _jobs(client, queue, loads)
    totals = [(source.name, source.dead_letters) for source in status.sources]
    dead = await summarize(redis, totals, MAX_EXAMINED, before.dead if before else ())
    return Overview(
        at=time.time(),
        status=status,
        workers=_workers(consumers, claimed),
        jobs=len(claimed),
        in_flight=tuple(sorted([*messages, *jobs], key=lambda item: -item.age_s)),
        later=later,
        dead=dead,
    )


def process_of(name: object) -> str:
    """Return the process that a consumer or the owner of a job belongs to."""
    text = codec.decode(name)
    return PLAIN_ARQ if text == "1" else re.sub("-[0-9a-f]{8}( .*)?$", "", text)


async def _messages(
    redis: ArqRedis, status: Status, group: str
) -> tuple[list[InFlight], list[dict[str, Any]]]:
    """Return the oldest pending entries, and the rows of XINFO CONSUMERS."""
    names = [s.name for s in status.sources if s.kind == "stream" and s.consumers]
    pending = [("XPENDING", name, group, "-", "+", MAX_SHOWN) for name in names]
    about = [("XINFO", "CONSUMERS", name, group) for name in names]
    replies = await pipelined(redis, [*pending, *about], parse_detail=True)
    now = time.time()
    found: list[InFlight] = []
    for name, rows in zip(names, replies, strict=False):
        for row in rows:
            entry_id = codec.decode(row["message_id"])
            age = max(0.0, now - int(entry_id.partition("-")[0]) / 1000)
            owner = process_of(row["consumer"])
            found.append(InFlight(name, entry_id, owner, age, row["times_delivered"]))
    consumers = [
        {codec.decode(name): value for name, value in zip(row[::2], row[1::2], strict=True)}
        for rows in replies[len(names) :]
        for row in rows
    ]
    return found, consumers


async def _jobs(
    redis: ArqRedis, queue: str, loads: Deserializer
) -> tuple[dict[str, str], list[InFlight], Later]:
    """Return the owners of the claimed jobs, the oldest of these, and what is due later."""
    now = int(time.time() * 1000)
    # A leased job is due when its lease ends; one that arq runs, as before it was started.
    head, ahead, coming = await pipelined(
        redis,
        [
            ("ZRANGE", queue, 0, MAX_EXAMINED - 1),
            ("ZRANGEBYSCORE", queue, f"({now}", "+inf", "WITHSCORES", "LIMIT", 0, MAX_EXAMINED),
            ("ZCOUNT", queue, f"({now}", "+inf"),
        ],
    )
    scores = {
        codec.decode(job): float(score) for job, score in zip(ahead[::2], ahead[1::2], strict=True)
    }
    ids = [*scores, *({codec.decode(job) for job in head} - scores.keys())]
    if not ids:
        return {}, [], Later(0, 0, 0, 0, 0, ())
    owners, counts = await pipelined(
        redis,
        [
            ("MGET", *(key_of(queue, job) for job in ids))
            for key_of in (keys.in_progress, keys.retry)
        ],
    )
    attempts = {job: int(count or 0) for job, count in zip(ids, counts, strict=True)}
    claimed = {job: process_of(owner) for job, owner in zip(ids, owners, strict=True) if owner}
    # Claiming a job counts its attempt, in a key whose time to live starts then.
    left = await pipelined(redis, [("PTTL", keys.retry(queue, job)) for job in claimed])
    age = {
        job: max(0, ATTEMPTS_TTL_MS - ttl) / 1000 if ttl > 0 else 0.0
        for job, ttl in zip(claimed, left, strict=True)
    }
    oldest = sorted(claimed, key=lambda job: -age[job])[:MAX_SHOWN]
    waiting = [job for job in scores if job not in claimed]
    first = waiting[:MAX_SHOWN]
    names = await _functions(redis, queue, [*oldest, *first], loads)
    due = [_due(job, names.get(job, ""), attempts[job], scores[job] - now) for job in waiting]
    number = Counter(item.kind for item in due)
    return (
        claimed,
        [InFlight(names[job], job, claimed[job], age[job], attempts[job]) for job in oldest],
        Later(
            total=coming - (len(scores) - len(waiting)),
            examined=len(waiting),
            messages=number["message"],
            jobs=number["job"],
            deferred=number["deferred"],
            first=tuple(due[:MAX_SHOWN]),
        ),
    )


def _due(job_id: str, function: str, attempts: int, in_ms: float) -> Due:
    in_s = max(0.0, in_ms / 1000)
    if message := keys.REQUEUE_JOB_ID.fullmatch(job_id):
        return Due("message", message["stream"], message["entry_id"], in_s)
    return Due("job" if attempts else "deferred", function, job_id, in_s)


async def _functions(
    redis: ArqRedis, queue: str, ids: list[str], loads: Deserializer
) -> dict[str, str]:
    """Return the functions of jobs by id, "?" where a job is gone or cannot be read."""
    found = dict.fromkeys(ids, "?")
    if not ids:
        return found
    (jobs,) = await pipelined(redis, [("MGET", *(keys.job(queue, job) for job in ids))])
    for job_id, job in zip(ids, jobs, strict=True):
        if job is not None:
            with contextlib.suppress(SerializationError):
                found[job_id] = str(deserialize_job_raw(job, deserializer=loads)[0])
    return found


def _workers(consumers: list[dict[str, Any]], claimed: dict[str, str]) -> tuple[Worker, ...]:
    pending: Counter[str] = Counter()
    quiet: dict[str, float] = {}
    for row in consumers:
        name = process_of(row["name"])
        pending[name] += row["pending"]
        quiet[name] = min(quiet.get(name, float("inf")), row["idle"] / 1000)
    jobs = Counter(claimed.values())
    names = sorted({*pending, *jobs}, key=lambda name: (-pending[name] - jobs[name], name))
    return tuple(Worker(name, pending[name], jobs[name], quiet.get(name)) for name in names)
