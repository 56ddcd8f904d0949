"""Finds a message or job by any id that somebody may know: its own, or one in its payload."""

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, cast

from ...broker import codec, keys
from ...broker.enqueue import QueueClient
from ...broker.entries import pages
from ...broker.redis_errors import is_missing_group, is_missing_key
from ...engine.failure_record import DATA, ID, ORIGINAL_ID, TYPE
from ...engine.sources import WorkSource
from ...inspector.dead_letters import DeadLetterEntry
from ...process.service import ResolvedSettings
from ...types import EntryId, Payload, RedisClient
from ..pipeline import pipelined
from .jobs import JobInfo, Jobs

Place: TypeAlias = Literal["job", "stream", "retry", "dead_letter", "parked"]
MAX_EXAMINED = 5_000
"""Maximum number of entries of a stream, and of jobs of the queue, that are searched by default."""
MAX_SIGHTINGS = 50
MIN_IN_PAYLOAD = 3
"""A shorter text is not looked for in payloads: it would be found everywhere."""

SETTLED = "settled"
"""State of a stream entry that its group has handled, retried or given up."""
_PAGE = 200

Hit: TypeAlias = tuple[EntryId, Payload, bool]
"""An entry, and whether the id was found in its payload only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A place where a message or job was found."""

    place: Place
    source: str
    """The stream or queue."""
    state: str
    """What it does there: waiting, in work, settled, or a state of jobs."""
    id: str
    """The message id or job id."""
    entry_id: str = ""
    """Of a stream entry."""
    name: str = ""
    """Event type or function."""
    worker: str = ""
    """Who has it in work."""
    error: str = ""
    at: float | None = None
    """Unix time: of the entry, or at which the job is due."""
    in_payload: bool = False
    """Whether the id was found in its payload, and is not its own."""


@dataclass(frozen=True, slots=True)
class Findings:
    """All places where an id was found."""

    sightings: tuple[Sighting, ...]
    incomplete: tuple[str, ...]
    """Streams and queues of which only a part was searched."""

    def as_dict(self) -> dict[str, object]:
        """Return plain data, for JSON."""
        return asdict(self)


async def find(
    client: QueueClient,
    settings: ResolvedSettings,
    wanted: str,
    limit: int = MAX_EXAMINED,
    on_page: Callable[[int], object] = lambda _: None,
) -> Findings:
    """Search what waits, runs, is retried, parked, dead or finished.

    Args:
        client: an open client.
        settings: of the worker.
        wanted: a message id, job id, entry id, or a value in a payload, such as an order number.
        limit: maximum number of entries of a stream, and of jobs, that are searched, the newest.
        on_page: called with the number of entries that were searched since the last call.

    Raises:
        redis.exceptions.RedisError: Redis does not answer.
    """
    search = _Search(client, settings, wanted, limit, on_page)
    jobs = Jobs(client, settings)
    if (job := await jobs.get(wanted)) is not None:
        search.sightings.append(search.of_job(job))
    await search.queue()
    for source in settings.sources():
        if source.kind == "stream":
            await search.stream(source)
        if source.parks:
            await search.set_aside(source, keys.parked(source.name), "parked")
        await search.set_aside(source, keys.dlq(source.name), "dead_letter")
    # What has been settled is an earlier attempt of what else was found.
    found = sorted(search.sightings, key=lambda one: one.state == SETTLED)
    return Findings(tuple(found[:MAX_SIGHTINGS]), tuple(search.incomplete))


class _Search:
    def __init__(
        self,
        client: QueueClient,
        settings: ResolvedSettings,
        wanted: str,
        limit: int,
        on_page: Callable[[int], object],
    ) -> None:
        self._client = client
        self._redis = cast("RedisClient", client)
        self._settings = settings
        self._wanted = wanted
        self._limit = limit
        self._on_page = on_page
        self._is_entry_id = re.fullmatch(r"\d{1,19}-\d{1,19}", wanted) is not None
        self._in_text = re.compile(rf"(?<![\w-]){re.escape(wanted)}(?![\w-])")
        self._group = str(getattr(settings.config, "consumer_group", ""))
        self.sightings: list[Sighting] = []
        self.incomplete: list[str] = []

    def _match(self, ids: Iterable[str], text: str) -> bool | None:
        """Return False for an id of its own, True for one in the payload, None for neither."""
        if self._wanted in ids:
            return False
        found = len(self._wanted) >= MIN_IN_PAYLOAD and self._in_text.search(text)
        return True if found else None

    def of_job(self, job: JobInfo, *, in_payload: bool = False) -> Sighting:
        """Describe a job."""
        return Sighting(
            place="retry" if job.retry_of else "job",
            source=self._settings.config.queue_name,
            state=job.state,
            id=job.id,
            name=job.function,
            worker=job.worker,
            error=job.error or (str(job.history[-1].get("error", "")) if job.history else ""),
            at=job.finished_at or job.due_at,
            in_payload=in_payload,
        )

    async def queue(self) -> None:
        """Search the arguments of jobs that wait or run, and the messages that jobs put back."""
        queue, needle = self._settings.config.queue_name, self._wanted
        jobs, examined = Jobs(self._client, self._settings), 0
        while examined < self._limit:
            (ids,) = await pipelined(
                self._client, [("ZRANGE", queue, examined, examined + _PAGE - 1)]
            )
            if not ids:
                return
            names = [codec.encode(keys.job(queue, codec.decode(job_id))) for job_id in ids]
            (found,) = await pipelined(self._client, [("MGET", *names)])
            for raw_id, job in zip(ids, found, strict=True):
                job_id = codec.decode(raw_id)
                text = codec.decode(job or b"")
                retried = keys.REQUEUE_JOB_ID.fullmatch(job_id)
                own = (retried["entry_id"],) if retried else ()
                if job_id == needle or (needle not in text and needle not in own):
                    continue
                in_payload = self._match(own, text)
                info = await jobs.get(job_id) if in_payload is not None else None
                if info is not None:
                    self.sightings.append(self.of_job(info, in_payload=bool(in_payload)))
            examined += len(ids)
            self._on_page(len(ids))
        self.incomplete.append(queue)

    async def stream(self, source: WorkSource) -> None:
        """Search the entries of a stream, and find out who has them."""
        hits = await self._entries(source.name)
        for hit in hits:
            entry_id, *_ = hit
            state, worker = await self._delivery(source.name, entry_id)
            self._add(source, "stream", hit, state=state, worker=worker)

    async def set_aside(self, source: WorkSource, name: str, place: Place) -> None:
        """Search dead letters or parked messages."""
        for hit in await self._entries(name):
            error = DeadLetterEntry(hit[0], hit[1]).error if place == "dead_letter" else ""
            self._add(source, place, hit, state=place.replace("_", " "), error=error)

    async def _entries(self, stream: str) -> list[Hit]:
        found: list[Hit] = []
        examined = 0
        async for page in pages(self._redis, stream, limit=self._limit, order="newest"):
            examined += len(page)
            self._on_page(len(page))
            for entry_id, payload in page:
                ids = (entry_id, payload.get(ID, ""), payload.get(ORIGINAL_ID, ""))
                in_payload = self._match(ids, payload.get(DATA, ""))
                if in_payload is not None:
                    found.append((entry_id, payload, in_payload))
        if examined >= self._limit:
            self.incomplete.append(stream)
            if self._is_entry_id and not found:
                async for page in pages(self._redis, stream, start=self._wanted, end=self._wanted):
                    found += [(entry_id, payload, False) for entry_id, payload in page]
        return found

    async def _delivery(self, stream: str, entry_id: EntryId) -> tuple[str, str]:
        """Return what a consumer group does with an entry, and its consumer."""
        try:
            pending = await self._redis.execute_command(
                "XPENDING", stream, self._group, entry_id, entry_id, 1, parse_detail=True
            )
            groups: list[dict[str, Any]] = await self._redis.execute_command("XINFO GROUPS", stream)
        except Exception as exc:
            if is_missing_group(exc) or is_missing_key(exc):
                return "waiting", ""
            raise
        if pending:
            return "in work", codec.decode(pending[0]["consumer"])
        last = [g["last-delivered-id"] for g in groups if codec.decode(g["name"]) == self._group]
        delivered = bool(last) and _number(codec.decode(last[0])) >= _number(entry_id)
        return (SETTLED if delivered else "waiting"), ""

    def _add(self, source: WorkSource, place: Place, hit: Hit, **more: str) -> None:
        entry_id, payload, in_payload = hit
        self.sightings.append(
            Sighting(
                place=place,
                source=source.name,
                id=payload.get(ID) or entry_id,
                entry_id=entry_id,
                name=payload.get(TYPE, ""),
                at=_number(entry_id)[0] / 1000,
                in_payload=in_payload,
                **more,
            )
        )


def _number(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)
