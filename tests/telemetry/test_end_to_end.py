"""A whole worker on a real server: from the publisher to the replay."""

import asyncio
import contextlib
import io
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, ClassVar, cast

import pytest
from arq.connections import ArqRedis, create_pool
from arq.jobs import Job
from arq.worker import Worker, func
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport
from waiting import until
from workerbase import BaseArqWorkerSettings, Ctx, task
from workerbase.broker import codec
from workerbase.broker.client import connect
from workerbase.broker.enqueue import QueueClient
from workerbase.config import WorkerConfig
from workerbase.delivery.arq import ArqAdapter
from workerbase.inspector.dead_letters import DeadLetterEntry, DeadLetterQueue
from workerbase.jobs import LeasedJobs
from workerbase.monitor import Monitor
from workerbase.process.runner import serve
from workerbase.process.service import Service
from workerbase.process.settings import redis_settings, resolved_settings
from workerbase.streams import Event, EventContext, EventPublisher, EventRouter, Streams
from workerbase.telemetry import logs
from workerbase.telemetry.sentry import Sentry
from workerbase.telemetry.tracing import Tracing
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient

ATTEMPTS = 2
SECRET = "hunter" + "2"
"""Not in one piece in the source, which tracebacks show."""


class Paid(Event, type="order.paid", stream="orders"):
    email: str


class Repair:
    """Whether what handlers and tasks need works."""

    done = False


router = EventRouter()


@router.on(Paid)
async def on_paid(event: Paid, ctx: EventContext) -> None:
    logging.getLogger("myworker").info("handling %s", event)
    await work(event.email)


@task()
async def bill(ctx: Ctx, email: str) -> str:
    logging.getLogger("myworker").info("billing")
    await work(email)
    return email


@task()
async def bill_later(ctx: Ctx, email: str) -> None:
    await cast("ArqRedis", ctx["redis"]).enqueue_job("bill", email, _job_id="billed-later")


async def work(email: str) -> None:
    await asyncio.sleep(0)
    if not Repair.done:
        raise ConnectionError(f"no mail server at smtp://u:{SECRET}@mail")


class Memory(Transport):
    """Keeps the reports."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.events.append(cast("dict[str, Any]", envelope.get_event()))


class Record(Monitor):
    """The outcomes, in order."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []

    def on_finished(self, work: Any, outcome: Any, error: Any, seconds: Any) -> None:
        if work.name != "requeue_to_stream":
            self.outcomes.append(outcome)


class World:
    """A worker, an application, and what they report."""

    def __init__(
        self,
        config: WorkerConfig,
        provider: TracerProvider,
        client: QueueClient,
        services: tuple[Service, ...],
    ) -> None:
        self.config, self.client, self.services = config, client, services
        self.tracer = provider.get_tracer("application")
        self.record, self.reports = Record(), Memory()
        self.monitors = [
            Tracing(config, provider),
            logs.LogContext(),
            Sentry("https://key@sentry.example/1", transport=self.reports),
            self.record,
        ]

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Run the worker beside the test."""
        monitors_, given, world_services = self.monitors, self.config, self.services

        class Settings(BaseArqWorkerSettings):
            functions = (bill, bill_later)
            services = world_services
            config: ClassVar[WorkerConfig | None] = given
            monitors: ClassVar[Any] = monitors_

        stop = asyncio.Event()
        running = asyncio.create_task(serve(resolved_settings(Settings), stop))
        try:
            yield
        finally:
            stop.set()
            await running

    async def came_to(self, *outcomes: str) -> None:
        """Wait until the outcomes are these."""
        await until(lambda: len(self.record.outcomes) >= len(outcomes))
        assert self.record.outcomes == list(outcomes)

    async def dead(self, stream: str) -> tuple[DeadLetterQueue, DeadLetterEntry]:
        dlq = DeadLetterQueue.of_source(cast("RedisClient", self.client), stream)
        (entry,) = [entry async for entry in dlq.scan()]
        return dlq, entry


@pytest.fixture(params=["leased", "arq"])
async def world(
    request: pytest.FixtureRequest,
    server: Server,
    config_for: Callable[..., WorkerConfig],
    provider: TracerProvider,
) -> AsyncIterator[World]:
    Repair.done = False
    config = config_for(server, max_retries=ATTEMPTS)
    client = connect(config.dsn, config.queue_name)
    jobs = (LeasedJobs(),) if request.param == "leased" else ()
    yield World(config, provider, client, (Streams(router), *jobs))
    await client.aclose(close_connection_pool=True)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """The log of the worker, as JSON lines."""
    root, stream = logging.getLogger(), io.StringIO()
    before = root.handlers[:], root.level
    logs.configure(WorkerConfig(), stream=stream)
    yield stream
    root.handlers[:], root.level = before
    logging.captureWarnings(capture=False)


def runs(spans: InMemorySpanExporter) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.kind is SpanKind.CONSUMER]


def attempts(found: list[ReadableSpan]) -> list[object]:
    return [(span.attributes or {})["messaging.redis.message.delivery_attempt"] for span in found]


def assert_all_lead_to(sender: Any, found: list[ReadableSpan]) -> None:
    context = sender.get_span_context()
    for span in found:
        assert span.parent is not None
        assert (span.parent.trace_id, span.parent.span_id) == (context.trace_id, context.span_id)
        assert [link.context for link in span.links] == [span.parent]
        assert span.context.trace_id == context.trace_id
    assert len({span.context.span_id for span in found}) == len(found)


async def test_a_message_is_handled_in_the_trace_of_its_publisher(
    world: World, spans: InMemorySpanExporter
) -> None:
    Repair.done = True
    async with world.working(), EventPublisher(world.config) as events:
        with world.tracer.start_as_current_span("request") as sender:
            await events.publish(Paid(email=SECRET), Paid(email=SECRET))
        await world.came_to("handled", "handled")

    found = runs(spans)
    assert [span.name for span in found] == ["process orders"] * 2
    assert_all_lead_to(sender, found)
    assert SECRET not in "".join(span.to_json() for span in found)


async def test_a_message_that_fails_and_is_replayed_leads_to_its_publisher_all_the_time(
    world: World, spans: InMemorySpanExporter, log: io.StringIO
) -> None:
    async with world.working(), EventPublisher(world.config) as events:
        with world.tracer.start_as_current_span("request") as sender:
            events.publish_sync(Paid(email=SECRET))
        await world.came_to("retried", "dead_lettered")
        Repair.done = True
        dlq, entry = await world.dead("orders")
        assert await dlq.replay(entry, max_replays=3) == "replayed"
        await world.came_to("retried", "dead_lettered", "handled")

    found = runs(spans)
    assert attempts(found) == [1, 2, 1]
    assert [span.status.status_code for span in found] == [
        StatusCode.ERROR,
        StatusCode.ERROR,
        StatusCode.UNSET,
    ]
    assert len({(span.attributes or {})["messaging.message.id"] for span in found}) == 1
    assert_all_lead_to(sender, found)
    assert_the_log_names(log, found, message_id=entry.payload["_id"], event_type="order.paid")
    assert_reported_once(world, message_id=entry.payload["_id"], event_type="order.paid")


async def test_a_job_that_fails_and_is_replayed_leads_to_who_enqueued_it_all_the_time(
    world: World, spans: InMemorySpanExporter, log: io.StringIO
) -> None:
    async with world.working(), ArqAdapter(world.config) as jobs:
        with world.tracer.start_as_current_span("request") as sender:
            job_id = jobs.enqueue_sync(bill.job(SECRET))
        await world.came_to("retried", "dead_lettered")
        Repair.done = True
        dlq, entry = await world.dead(world.config.queue_name)
        assert await dlq.replay(entry, max_replays=3) == "replayed"
        await world.came_to("retried", "dead_lettered", "handled")

    found = runs(spans)
    assert [span.name for span in found] == ["process arq:queue"] * 3
    assert attempts(found) == [1, 2, 1]
    assert_all_lead_to(sender, found)
    assert_the_log_names(log, found, job_id=job_id, function="bill")
    assert_reported_once(world, job_id=job_id, function="bill")


def assert_the_log_names(log: io.StringIO, found: list[ReadableSpan], **of: object) -> None:
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    own = [line for line in lines if line["logger"] == "myworker"]
    about = [line for line in lines if of.items() <= line.items() and line not in own]

    assert [(line["attempt"], line["trace_id"], line["span_id"]) for line in own] == [
        (attempt, f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}")
        for attempt, span in zip([1, 2, 1], found, strict=True)
    ]
    assert all(of.items() <= line.items() for line in own)
    # The base reports the failure, after the span.
    failed = [line for line in about if "no mail server at" in line["message"]]
    # arq repeats the last failure and does not tell the attempt.
    failed = [line for line in failed if line["logger"] != "arq.worker"]
    assert [line["attempt"] for line in failed] == [1, 2]
    assert {line["trace_id"] for line in failed} == {own[0]["trace_id"]}
    assert SECRET not in log.getvalue()


def assert_reported_once(world: World, **tags: object) -> None:
    (report,) = world.reports.events
    assert tags.items() <= report["tags"].items()
    assert (report["tags"]["attempt"], report["tags"]["outcome"]) == (
        str(ATTEMPTS),
        "dead_lettered",
    )
    assert SECRET not in json.dumps(report, default=str)


async def test_a_job_that_a_job_enqueues_is_the_next_span_of_the_same_trace(
    world: World, spans: InMemorySpanExporter
) -> None:
    Repair.done = True
    async with world.working():
        with world.tracer.start_as_current_span("request"):
            await world.client.enqueue_job("bill_later", "x")
        await world.came_to("handled", "handled")

    later, billed = runs(spans)
    assert billed.parent is not None
    assert billed.parent.span_id == later.context.span_id
    assert billed.context.trace_id == later.context.trace_id


async def test_what_plain_arq_enqueues_has_a_trace_of_its_own(
    world: World, spans: InMemorySpanExporter
) -> None:
    Repair.done = True
    kind: dict[str, Any] = {"job_serializer": codec.dumps, "job_deserializer": codec.loads}
    plain = await create_pool(redis_settings(world.config.dsn), **kind)
    try:
        async with world.working():
            with world.tracer.start_as_current_span("request") as sender:
                assert await plain.enqueue_job("bill", "x") is not None
            await world.came_to("handled")
    finally:
        await plain.aclose()

    (span,) = runs(spans)
    assert (span.parent, span.links) == (None, ())
    assert span.context.trace_id != sender.get_span_context().trace_id


async def test_plain_arq_reads_and_runs_a_job_with_a_trace(world: World) -> None:
    async def add(ctx: Ctx, left: int, right: int) -> int:
        return left + right

    with world.tracer.start_as_current_span("request"):
        job = await world.client.enqueue_job("add", 1, right=2)
    assert job is not None
    assert b'"tp":"00-' in (await world.client.get(f"arq:job:{job.job_id}") or b"")
    kind: dict[str, Any] = {"job_serializer": codec.dumps, "job_deserializer": codec.loads}
    plain = await create_pool(redis_settings(world.config.dsn), **kind)
    info = await Job(job.job_id, plain, _deserializer=codec.loads).info()
    assert info is not None
    assert (info.function, info.args, info.kwargs) == ("add", [1], {"right": 2})

    worker = Worker(
        [func(cast("Any", add), name="add")], redis_pool=plain, burst=True, poll_delay=0.01,
        handle_signals=False, **kind,
    )  # fmt: skip
    await worker.main()
    await plain.aclose(close_connection_pool=True)

    assert await job.result(timeout=5) == 3
