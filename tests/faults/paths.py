"""The ways that a message or job can take, and what is true at the end of each."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import redis as sync
from faulty_worker import Work
from workerbase.broker import codec
from workerbase.delivery.arq import ArqAdapter
from workerbase.engine import failure_record
from workerbase.engine.retry_policy import Reason
from workerbase.streams import EventPublisher
from workerconfig import Config

STREAM, QUEUE, JOB = "work", "arq:queue", "j1"
Prepare = Callable[["Config"], None]


@dataclass(frozen=True, kw_only=True)
class Path:
    """One way."""

    name: str
    prepare: Prepare
    min_points: int
    """Number of commands and scripts on it, beside claims, which a timer repeats."""
    done: bool = False
    """Whether a handler or task succeeds at the end."""
    dead: dict[str, set[Reason]] = field(default_factory=dict[str, set[Reason]])
    """The dead letter that is left, by its source, and its possible reasons."""
    parked: int = 0
    job: bool = False
    """Whether the job `JOB` leaves a result."""
    cron: bool = False
    """Whether a tick was due a moment ago, which a worker that starts enqueues at once."""
    replay: str = ""

    def settled(self, redis: sync.Redis) -> bool:
        """Whether nothing is left to be done."""
        groups: Any = redis.xinfo_groups(STREAM) if redis.exists(STREAM) else []
        if not groups or redis.zcard(QUEUE) or any(group["pending"] for group in groups):
            return False
        info: Any = redis.xinfo_stream(STREAM)
        if any(group["last-delivered-id"] != info["last-generated-id"] for group in groups):
            return False
        return not self.problems(redis)

    def problems(self, redis: sync.Redis) -> list[str]:
        """Return what is lost, left over, in two places or misjudged."""
        done = int(redis.get("done") or 0)
        found = []
        if bool(done) is not self.done:
            found.append(f"done {done} times")
        for source in (STREAM, QUEUE):
            rows: Any = redis.xrange(f"{source}:dlq")
            reasons = [fields[b"_reason"].decode() for _, fields in rows]
            expected = self.dead.get(source, set[Reason]())
            if len(reasons) != bool(expected) or not expected.issuperset(reasons):
                found.append(f"dead letters of {source}: {reasons}")
        if (parked := redis.xlen(f"{STREAM}:parked")) != self.parked:
            found.append(f"{parked} parked")
        if left := [key for kind in ("job", "in-progress", "retry") for key in _keys(redis, kind)]:
            found.append(f"left: {left}")
        if self.job and not redis.exists(f"arq:result:{JOB}"):
            found.append("no result")
        return found


def _keys(redis: sync.Redis, kind: str) -> list[str]:
    # The in-progress key of a tick keeps its id for a while.
    return [k.decode() for k in redis.keys(f"arq:{kind}:*") if b"in-progress:tick" not in k]


def message(kind: str) -> Prepare:
    def prepare(config: Config) -> None:
        with_publisher = EventPublisher(config)
        with_publisher.publish_sync(Work(kind=kind))
        with_publisher.close()

    return prepare


def job(kind: str) -> Prepare:
    def prepare(config: Config) -> None:
        adapter = ArqAdapter(config)
        adapter.enqueue_sync("job", kind, _job_id=JOB)
        adapter.close()

    return prepare


def _client(config: Config) -> sync.Redis:
    return sync.Redis.from_url(config.redis_dsn.get_secret_value())


def unknown(config: Config) -> None:
    with _client(config) as redis:
        redis.xadd(STREAM, {"type": "unknown", "data": "{}"})


def set_aside(target: str, reason: Reason, **more: str) -> Prepare:
    def prepare(config: Config) -> None:
        failure = failure_record.describe_failure(ValueError("no"), STREAM, "1-0")
        payload = {"type": "work", "data": '{"kind":"good"}', "_id": uuid4().hex}
        fields = failure_record.dead_letter(payload, failure, reason, 1, **more)
        flat = codec.encode_fields(fields)
        with _client(config) as redis:
            redis.execute_command("XADD", target, "*", *flat)

    return prepare


def dead_job(config: Config) -> None:
    serialized = codec.dumps({"t": None, "f": "job", "a": ["good"], "k": {}, "et": 1_000})
    more = {"_job": serialized.decode(), "_history": "[]", "type": "job", "_id": JOB}
    set_aside(f"{QUEUE}:dlq", "retries", **more)(config)


def missed_tick(config: Config) -> None:
    with _client(config) as redis:
        redis.set(f"{QUEUE}:cron:tick", int((time.time() - 55) * 1000))


PATHS = (
    Path(name="message succeeds", prepare=message("good"), done=True, min_points=5),
    Path(name="message is retried", prepare=message("flaky"), done=True, min_points=8),
    Path(
        name="message is given up",
        prepare=message("permanent"),
        dead={STREAM: {"permanent"}},
        min_points=5,
    ),
    Path(
        name="message uses up its attempts",
        prepare=message("failing"),
        dead={STREAM: {"retries"}},
        min_points=8,
    ),
    Path(name="message is parked", prepare=unknown, parked=1, min_points=5),
    Path(
        name="message is no longer parked",
        prepare=set_aside(f"{STREAM}:parked", "unknown"),
        done=True,
        min_points=7,
    ),
    Path(
        name="message is replayed",
        prepare=set_aside(f"{STREAM}:dlq", "retries"),
        replay=STREAM,
        done=True,
        min_points=8,
    ),
    Path(name="job succeeds", prepare=job("good"), done=True, job=True, min_points=4),
    Path(name="job is retried", prepare=job("flaky"), done=True, job=True, min_points=5),
    Path(
        name="job is given up",
        prepare=job("permanent"),
        dead={QUEUE: {"permanent"}},
        job=True,
        min_points=4,
    ),
    Path(
        name="job uses up its attempts",
        prepare=job("failing"),
        # It is poison where its worker dies with its last attempt.
        dead={QUEUE: {"retries", "poison"}},
        job=True,
        min_points=5,
    ),
    Path(
        name="job is replayed",
        prepare=dead_job,
        replay=QUEUE,
        done=True,
        job=True,
        min_points=7,
    ),
    Path(
        name="cron tick",
        prepare=missed_tick,
        cron=True,
        done=True,
        min_points=6,
    ),
)


def is_settled(name: str, redis: sync.Redis) -> bool:
    """Whether nothing is left to be done on the path of this name."""
    return next(path for path in PATHS if path.name == name).settled(redis)
