"""Pauses in Redis: how they begin and end, and how a worker learns of them.

All are in one hash for each queue of a service. They follow the clock of Redis; one that is over
counts as ended, and is removed with the next change.
"""

import asyncio
import json
import logging
from collections.abc import Iterable, Mapping
from typing import cast

from arq.connections import ArqRedis
from redis.exceptions import ResponseError

from ..broker import codec, keys
from ..broker.redis_errors import OUTAGE_ERRORS
from ..broker.scripts import Script
from ..engine.human_input import near
from ..engine.pauses import Pause, PauseKind
from ..engine.text import printable
from ..errors import WorkerError
from ..process.service import ResolvedSettings, WorkerContext
from ..types import RedisClient
from .pipeline import pipelined

logger = logging.getLogger(__name__)

_PAUSE = Script.load(__name__, "pause")

PERIOD_S = 0.5
"""Interval at which a worker reads what is paused: it knows of it within a second."""
MAX_TEXT = 200
"""Maximum length of a reason, in characters."""


class NotKnownError(WorkerError):
    """The worker has nothing of this name that could be paused or resumed."""

    def __init__(
        self, kind: PauseKind, name: str, known: Iterable[str], verb: str = "is known"
    ) -> None:
        super().__init__(f"no {kind} {name!r} {verb}; {near(name, known)}")


def names_of(settings: ResolvedSettings) -> Mapping[PauseKind, frozenset[str]]:
    """Return what of a worker can be paused."""
    sources = settings.sources()
    queues = [source for source in sources if source.kind == "queue"]
    streams = [source for source in sources if source.kind == "stream"]
    return {
        "queue": frozenset(source.name for source in queues),
        "stream": frozenset(source.name for source in streams),
        "event": frozenset(name for source in streams for name in source.names),
        "task": frozenset(name for source in queues for name in source.names),
    }


async def read_pauses(redis: ArqRedis, queue: str) -> tuple[Pause, ...]:
    """Return what is paused now, the longest pause first.

    Raises:
        redis.exceptions.RedisError: Redis does not answer.
    """
    time_of_redis, found = await pipelined(redis, [("TIME",), ("HGETALL", keys.pauses(queue))])
    now = float(time_of_redis[0]) + float(time_of_redis[1]) / 1_000_000
    pauses = [_parse(codec.decode(what), codec.decode(text)) for what, text in found.items()]
    standing = (pause for pause in pauses if pause.until is None or pause.until > now)
    return tuple(sorted(standing, key=lambda pause: pause.since))


def _parse(what: str, text: str) -> Pause:
    kind, _, name = what.partition(":")
    found = json.loads(text)
    ends = found.get("until")
    return Pause(
        kind=cast("PauseKind", kind),
        name=name,
        who=found["who"],
        why=found["why"],
        since=found["since"] / 1000,
        until=None if ends is None else ends / 1000,
    )


async def begin(
    redis: RedisClient,
    settings: ResolvedSettings,
    kind: PauseKind,
    name: str,
    *,
    who: str,
    why: str = "",
    seconds: float | None = None,
) -> None:
    """Pause something; a pause of it that stands already is replaced.

    Args:
        redis: an open client.
        settings: of the worker.
        kind: what is paused.
        name: of the queue, stream, event type or task; see `names_of`.
        who: whoever pauses it.
        why: the reason.
        seconds: when the pause ends by itself; None for never.

    Raises:
        NotKnownError: the worker has no such thing.
    """
    known = names_of(settings)[kind]
    if name not in known:
        raise NotKnownError(kind, name, known)
    about = {"who": who, "why": printable(why, one_line=True)[:MAX_TEXT]}
    length_ms = "" if seconds is None else int(seconds * 1000)
    pauses = keys.pauses(settings.config.queue_name)
    await _PAUSE(redis, [pauses], [f"{kind}:{name}", json.dumps(about), length_ms])


async def end(redis: RedisClient, queue: str, kind: PauseKind, name: str) -> bool:
    """End a pause; false if there was none."""
    return bool(await _PAUSE(redis, [keys.pauses(queue)], [f"{kind}:{name}", "", ""]))


async def follow(redis: ArqRedis, worker: WorkerContext) -> None:
    """Keep a worker informed of what is paused, until cancelled.

    During an outage of Redis it stays as it was read last.
    """
    while True:
        await refresh(redis, worker)
        await asyncio.sleep(PERIOD_S)


async def refresh(redis: ArqRedis, worker: WorkerContext) -> None:
    """Read once what is paused."""
    try:
        worker.paused.set(await read_pauses(redis, worker.config.queue_name))
    except ResponseError as exc:
        if not worker.paused.known:
            logger.warning("nothing can be paused, since Redis refuses to say what is: %s", exc)
        worker.paused.recall()
    except OUTAGE_ERRORS as exc:
        logger.debug("what is paused is not read: %s", exc)
