"""What a real worker exports, after work of each kind, on a real server."""

import socket

import pytest
from arq.connections import ArqRedis
from metered_worker import SECRET, Order
from meterkit import Scrape, Start, until
from workerbase.streams.publish import publish
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient

MESSAGES = ("fine", "fine", "retries", "fails", "refused", "blocks")
"""Six; the fourth uses up its five attempts, and the fifth needs only one."""


async def give_work(redis: ArqRedis, client: RedisClient, how: tuple[str, ...]) -> None:
    await publish(client, *[Order(how=each) for each in how])
    for each in how:
        await redis.enqueue_job("ship", each)


def done(scraped: Scrape) -> bool:
    return all(
        scraped.attempts(kind, "handled") == 4 and scraped.attempts(kind, "dead_lettered") == 2
        for kind in ("message", "job")
    )


@pytest.mark.parametrize("jobs", ["leased", "arq"])
async def test_each_outcome_is_counted_and_nothing_secret_is_shown(
    redis: ArqRedis, client: RedisClient, server: Server, start: Start, jobs: str
) -> None:
    await give_work(redis, client, MESSAGES)
    await client.execute_command("XADD", "orders", "*", "type", f"no.{SECRET}", "data", "{}")
    worker = start(server, METERED_JOBS=jobs)

    scraped = worker.scrape_until(done, "all is settled")

    for kind, source, name in (
        ("message", "orders", "order.placed"),
        ("job", "arq:queue", "ship"),
    ):
        assert scraped.attempts(kind, "retried") == 1 + 4, kind
        labels = {"kind": kind, "source": source, "name": name}
        duration = "worker_attempt_duration_seconds"
        runs = 4 + 1 + 4 + 2
        assert scraped.value(f"{duration}_count", **labels) == runs, kind
        assert scraped.value(f"{duration}_bucket", **labels, le="+Inf") == runs
        # What blocks holds up what runs beside it, so that is a lower bound.
        assert scraped.value(f"{duration}_bucket", **labels, le="0.25") <= runs - 1
        assert scraped.value(f"{duration}_sum", **labels) > 0.29
        assert scraped.value("worker_in_flight", kind=kind) == 0
    unseen = {"kind": "message", "source": "orders", "name": "order.cancelled"}
    assert scraped.value("worker_attempts_total", **unseen, outcome="handled") == 0
    parked = {"kind": "message", "source": "orders", "name": "unknown", "outcome": "parked"}
    assert scraped.value("worker_attempts_total", **parked) == 1
    assert scraped.value("worker_breaker_open") == 0
    assert scraped.value("worker_redis_up") == 1
    assert scraped.value("worker_redis_sample_success") == 1
    assert scraped.value("process_start_time_seconds") is not None
    info = {"package": "__main__", "version": "unknown", "queue": "arq:queue", "group": "workers"}
    assert scraped.value("worker_info", **info) == 1
    assert SECRET not in scraped.text
    assert worker.stop() == 0


@pytest.mark.parametrize("jobs", ["leased", "arq"])
async def test_what_is_in_redis_is_shown(
    redis: ArqRedis, client: RedisClient, server: Server, start: Start, jobs: str
) -> None:
    first = start(server, METERED_JOBS=jobs)
    await give_work(redis, client, MESSAGES)
    first.scrape_until(done, "all is settled")
    await client.execute_command("XADD", "orders", "*", "type", "no.such", "data", "{}")
    await redis.enqueue_job("ship", "fine", _defer_by=3600)
    first.scrape_until(
        lambda s: s.value("worker_attempts_total", kind="message", source="orders",
                          name="unknown", outcome="parked"), "parked")  # fmt: skip
    assert first.stop() == 0
    await publish(client, Order(how="waits"))
    second = start(server, WORKER_CONCURRENCY="1", METERED_JOBS=jobs)

    scraped = second.scrape_until(lambda s: s.value("worker_in_flight", kind="message"), "it runs")

    assert scraped.value("worker_stream_parked_entries", stream="orders") == 1
    assert scraped.value("worker_queue_jobs", queue="arq:queue", state="deferred") == 1
    assert scraped.value("worker_queue_jobs", queue="arq:queue", state="due") == 0
    for source in ("orders", "arq:queue"):
        assert scraped.value("worker_dlq_entries", source=source) == 2
        by_error = {
            dict(labels)["error"]: value
            for (name, labels), value in scraped.samples.items()
            if name == "worker_dlq_newest_entries" and ("source", source) in labels
        }
        assert by_error == {"ValueError": 1, "PermanentError": 1}


async def test_lag_is_what_no_worker_was_given(
    client: RedisClient, server: Server, start: Start
) -> None:
    await client.execute_command("XGROUP", "CREATE", "orders", "workers", "0", "MKSTREAM")
    await publish(client, *[Order(how="waits") for _ in range(7)])
    worker = start(server, WORKER_CONCURRENCY="2", WORKER_PREFETCH="0")

    scraped = worker.scrape_until(
        lambda s: s.value("worker_stream_pending_entries", stream="orders") == 2, "two run"
    )

    assert scraped.value("worker_stream_lag_entries", stream="orders") == 5
    assert scraped.value("worker_stream_consumers", stream="orders") == 1
    assert scraped.value("worker_in_flight", kind="message") == 2


async def test_an_open_breaker_is_shown(client: RedisClient, server: Server, start: Start) -> None:
    worker = start(server, WORKER_BREAKER_THRESHOLD="3", WORKER_MAX_RETRIES="50")
    await publish(client, *[Order(how="fails") for _ in range(10)])

    scraped = worker.scrape_until(lambda s: s.value("worker_breaker_open") == 1, "it opens")

    assert scraped.attempts("message", "deferred") >= 1


async def test_leases_are_renewed_and_reclaimed(
    client: RedisClient, redis: ArqRedis, server: Server, start: Start
) -> None:
    dead = start(server, WORKER_LEASE_TIMEOUT="0.5")
    await publish(client, Order(how="waits"))
    await redis.enqueue_job("ship", "waits")
    dead.scrape_until(
        lambda s: all(s.value("worker_in_flight", kind=k) == 1 for k in ("message", "job")), "run"
    )
    scraped = dead.scrape_until(
        lambda s: all(
            s.value("worker_lease_events_total", kind=k, event="renewed")
            for k in ("message", "job")
        ),
        "the leases are renewed",
    )
    assert scraped.value("worker_lease_events_total", kind="message", event="reclaimed") == 0
    dead.stop(9)

    heir = start(server, WORKER_LEASE_TIMEOUT="0.5")

    for kind in ("message", "job"):
        heir.scrape_until(
            lambda s, kind=kind: (
                s.value("worker_lease_events_total", kind=kind, event="reclaimed") == 1
            ),
            f"the {kind} is reclaimed",
        )


async def test_a_blocked_event_loop_is_shown(
    client: RedisClient, server: Server, start: Start
) -> None:
    worker = start(server)
    worker.scrape_until(lambda s: s.value("worker_event_loop_lag_seconds_count") >= 2, "measured")
    await publish(client, *[Order(how="blocks") for _ in range(10)])

    worker.scrape_until(
        lambda s: (
            s.value("worker_event_loop_lag_seconds_bucket", le="0.025")
            < s.value("worker_event_loop_lag_seconds_count")
        ),
        "it blocks",
    )


async def test_without_redis_there_is_less_to_see_and_no_error(
    own_server: Server, start: Start
) -> None:
    worker = start(own_server)
    before = worker.scrape_until(lambda s: s.value("worker_redis_sample_success") == 1, "seen")
    assert before.value("worker_dlq_entries", source="orders") == 0
    assert worker.get("/readyz") == (200, "ok\n")
    own_server.stop()

    scraped = worker.scrape_until(lambda s: s.value("worker_redis_up") == 0, "it is noticed")

    assert sum(v for (n, _), v in scraped.samples.items() if n == "worker_redis_errors_total") >= 1
    assert scraped.value("worker_redis_errors_total", error="ConnectionError") >= 1
    status, problem = worker.get("/readyz")
    assert status == 503
    assert problem.startswith("the worker cannot use Redis: ConnectionError: ")
    assert worker.get("/livez") == (200, "ok\n")
    worker.scrape_until(
        lambda s: s.value("worker_dlq_entries", source="orders") is None, "nothing old is shown"
    )

    own_server.start()
    worker.scrape_until(
        lambda s: s.value("worker_redis_up") == 1 and s.value("worker_redis_sample_success") == 1,
        "it is back",
    )


def test_workers_of_one_machine_do_not_fight_over_a_port(server: Server, start: Start) -> None:
    first = start(server)
    port = first.port
    second = start(server, WORKER_METRICS_PORT=str(port))
    third = start(server, WORKER_METRICS_PORT=str(port))

    ports = {worker.port for worker in (first, second, third)}

    assert len(ports) == 3
    assert all(port <= each < port + 20 for each in ports)
    assert all(worker.scrape().value("worker_redis_up") == 1 for worker in (second, third))
    assert f":{second.port}/metrics (port {port} is taken)" in second.log.read_text()


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
async def test_a_worker_that_cannot_serve_works_all_the_same(
    client: RedisClient, server: Server, start: Start, host: str
) -> None:
    worker = start(server, WORKER_METRICS_HOST=host)
    await publish(client, Order(how="refused"))

    until(lambda: "metrics are not served" in worker.log.read_text(), "it says so")
    until(
        lambda: "dead-lettered after attempt 1 (PermanentError" in worker.log.read_text(),
        "it works",
    )
    assert worker.stop() == 0


def test_a_wrong_port_is_named(server: Server, start: Start) -> None:
    worker = start(server, WORKER_METRICS_PORT="many")

    assert worker.process.wait(60) == 1
    assert "WORKER_METRICS_PORT: Input should be a valid integer" in worker.log.read_text()


def test_the_pages_are_there_until_all_is_drained(server: Server, start: Start) -> None:
    worker = start(server)
    assert worker.get("/livez") == (200, "ok\n")
    port = worker.port

    assert worker.stop() == 0

    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
