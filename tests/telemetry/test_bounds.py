"""Nothing that senders write makes the metrics, or a scrape, grow."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import prometheus_client
import pytest
from metered_worker import WorkerSettings, router
from meterkit import Scrape
from workerbase.broker.enqueue import QueueClient
from workerbase.monitor import Kind, Work
from workerbase.process.heartbeat import Heartbeat
from workerbase.process.service import ResolvedSettings, WorkerContext
from workerbase.process.settings import resolved_settings
from workerbase.telemetry import redis_sample
from workerbase.telemetry.metrics import Metrics
from workerbase.telemetry.redis_sample import MAX_AGE_S, MAX_FINGERPRINTS, MAX_NEWEST, Sampler
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient
from workerconfig import Config

ConfigFor = Callable[..., Config]


@pytest.fixture
def settings(server: Server, config_for: ConfigFor) -> ResolvedSettings:
    """The settings of `metered_worker`, on the server."""
    return replace(resolved_settings(WorkerSettings), config=config_for(server))


@pytest.fixture
def metrics(redis: QueueClient, settings: ResolvedSettings, tmp_path: Path) -> Metrics:
    made = Metrics()
    heartbeat = Heartbeat(str(tmp_path / "healthy"), 1.0)
    made.watch(WorkerContext(settings=settings, redis=redis, heartbeat=heartbeat))
    return made


async def scrape(metrics: Metrics) -> Scrape:
    return Scrape((await metrics.page()).decode())


async def test_unknown_names_share_one_series(metrics: Metrics) -> None:
    kinds: tuple[Kind, ...] = ("message", "job")
    for kind in kinds:
        metrics.on_finished(Work(kind, "orders", "x", "id", 1), "parked", None, 0.0)
        metrics.on_finished(Work(kind, "elsewhere", "x", "id", 1), "parked", None, 0.0)
    before = await scrape(metrics)

    for number in range(1000):
        for kind in kinds:
            for source in ("orders", f"stream-{number}"):
                metrics.on_finished(Work(kind, source, f"x{number}", "id", 1), "parked", None, 0.0)
        metrics.on_redis_failure(type(f"Error{number}", (OSError,), {})())

    after = await scrape(metrics)
    assert len(after.samples) - len(before.samples) == 1  # OSError
    assert after.value("worker_redis_errors_total", error="OSError") == 1000
    for source in ("orders", "unknown"):
        labels = {"kind": "message", "source": source, "name": "unknown", "outcome": "parked"}
        assert after.value("worker_attempts_total", **labels) == 1001


async def test_an_event_of_a_second_stream_keeps_its_name(metrics: Metrics) -> None:
    name, model = next(iter(router.models.items()))
    metrics._tallies.clear()

    metrics.on_finished(Work("message", model.stream, name, "id", 1), "handled", None, 0.1)

    labels = {"kind": "message", "source": model.stream, "name": name, "outcome": "handled"}
    assert (await scrape(metrics)).value("worker_attempts_total", **labels) == 1


async def test_metrics_of_the_project_are_served_beside_ours(metrics: Metrics) -> None:
    own = prometheus_client.Counter("own_things", "Things of the project's own.")
    try:
        own.inc(3)
        assert (await scrape(metrics)).value("own_things_total") == 3
    finally:
        prometheus_client.REGISTRY.unregister(own)


class Counting:
    """A client that counts what is asked."""

    def __init__(self, client: RedisClient) -> None:
        self.asked: list[str] = []
        self._client = client

    async def execute_command(self, *command: object) -> object:
        self.asked.append(str(command[0]))
        return await self._client.execute_command(*command)


async def add_dead_letter(client: RedisClient, number: int, error_type: str = "ValueError") -> None:
    letter = ("_error_type", error_type, "_error", "failed", "type", "order", "_where", str(number))
    await client.execute_command("XADD", "orders:dlq", "*", *letter)


async def test_redis_is_asked_once_for_many_scrapes_and_old_letters_are_not_read_again(
    client: RedisClient, settings: ResolvedSettings
) -> None:
    now = 0.0
    counting = Counting(client)
    sampler = Sampler(counting, settings, lambda: now)
    await add_dead_letter(client, 0)

    await sampler.refresh()
    once = len(counting.asked)
    assert counting.asked.count("XREVRANGE") == 2  # the newest, then the newest ones
    for _ in range(50):
        await sampler.refresh()
    assert len(counting.asked) == once

    now += MAX_AGE_S
    await sampler.refresh()
    assert counting.asked.count("XREVRANGE") == 3
    await add_dead_letter(client, 1)
    now += MAX_AGE_S
    await sampler.refresh()
    assert counting.asked.count("XREVRANGE") == 5


async def test_many_errors_are_counted_together_and_no_text_is_a_label(
    client: RedisClient, settings: ResolvedSettings
) -> None:
    for number in range(MAX_FINGERPRINTS + 5):
        await add_dead_letter(client, number)
    await add_dead_letter(client, 100, "hunter2 is my password")
    sampler = Sampler(client, settings)

    await sampler.refresh()

    (newest,) = [m for m in sampler.collect() if m.name == "worker_dlq_newest_entries"]
    assert len(newest.samples) == MAX_FINGERPRINTS + 1
    assert sum(s.value for s in newest.samples) == MAX_FINGERPRINTS + 6
    assert {s.labels["error"] for s in newest.samples} == {"ValueError", "other"}
    assert newest.samples[-1].labels == {
        "source": "orders",
        "fingerprint": "other",
        "error": "other",
    }
    assert MAX_NEWEST > MAX_FINGERPRINTS


async def test_a_sample_that_takes_too_long_is_cancelled(
    settings: ResolvedSettings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Slow:
        async def execute_command(self, *command: object) -> object:
            await asyncio.sleep(60)
            raise AssertionError

    monkeypatch.setattr(redis_sample, "TIMEOUT_S", 0.05)
    now = 0.0
    sampler = Sampler(Slow(), settings, lambda: now)

    for _ in range(3):
        await sampler.refresh()
        now += MAX_AGE_S

    shown = [(s.name, s.value) for m in sampler.collect() for s in m.samples]
    assert shown == [("worker_redis_sample_success", 0.0)]
    assert len(caplog.records) == 1, "once, not at each scrape"
