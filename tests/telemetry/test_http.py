"""What the HTTP server answers, and what it refuses."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from waiting import until
from workerbase.process.heartbeat import Heartbeat
from workerbase.telemetry import http
from workerbase.telemetry.http import MAX_CONNECTIONS, MAX_HEAD_BYTES, MAX_PORTS, Pages

Ask = Callable[[bytes], Awaitable[bytes]]


async def metrics() -> bytes:
    return b"# TYPE worker_up gauge\nworker_up 1.0\n"


@pytest.fixture
async def pages(tmp_path: Path) -> AsyncIterator[Pages]:
    made = Pages(metrics, tmp_path / "healthy")
    yield made
    await made.stop()


@pytest.fixture
async def port(pages: Pages) -> int:
    return await pages.start("127.0.0.1", 0)


@pytest.fixture
def ask(port: int) -> Ask:
    """Send bytes and return the whole answer."""

    async def send(request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        got = await all_of(reader)
        writer.close()
        return got

    return send


async def all_of(reader: asyncio.StreamReader) -> bytes:
    """Read until the connection is closed, in whatever way."""
    got = b""
    try:
        async with asyncio.timeout(10):
            while chunk := await reader.read(1 << 20):
                got += chunk
    except ConnectionResetError:
        pass
    return got


def get(path: str, method: str = "GET", version: str = "HTTP/1.1", more: str = "") -> bytes:
    return f"{method} {path} {version}\r\nHost: x\r\n{more}\r\n".encode()


async def test_the_metrics_are_an_answer_that_prometheus_reads(ask: Ask) -> None:
    answer = await ask(get("/metrics"))

    head, _, body = answer.partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    assert status == "HTTP/1.1 200 OK"
    assert dict(field.split(": ", 1) for field in fields) == {
        "Content-Type": "text/plain; version=0.0.4; charset=utf-8",
        "Content-Length": str(len(body)),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Connection": "close",
    }
    assert body == await metrics()
    assert await ask(get("/metrics?name[]=x", version="HTTP/1.0")) == answer


async def test_head_has_no_body(ask: Ask) -> None:
    answer = await ask(get("/metrics", "HEAD"))

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert f"\r\nContent-Length: {len(await metrics())}\r\n".encode() in answer
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/"), "404 Not Found"),
        (get("/metrics/"), "404 Not Found"),
        (get("/%6detrics"), "404 Not Found"),
        (get("/../metrics"), "404 Not Found"),
        (get("/metrics", "POST"), "405 Method Not Allowed"),
        (get("/metrics", "get"), "405 Method Not Allowed"),
        (get("/metrics", "DELETE"), "405 Method Not Allowed"),
        (get("/metrics", version="HTTP/2.0"), "505 HTTP Version Not Supported"),
        (get("/metrics", version="HTTP/0.9"), "505 HTTP Version Not Supported"),
        (get("http://x/metrics"), "400 Bad Request"),
        (get("*", "OPTIONS"), "400 Bad Request"),
        (b"GET /metrics\r\n\r\n", "400 Bad Request"),
        (b"GET  /metrics HTTP/1.1\r\n\r\n", "400 Bad Request"),
        (b"\r\n\r\n", "400 Bad Request"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", "400 Bad Request"),
        (b"GET \xff\xfe HTTP/1.1\r\n\r\n", "400 Bad Request"),
        (get("/metrics", more="no colon\r\n"), "400 Bad Request"),
        (b"GET /metrics HTTP/1.1\r\n\r\n", "400 Bad Request"),  # names no host
        (get("/metrics", more="Content-Length : 0\r\n"), "400 Bad Request"),
        (get("/metrics", more="Content-Length: 5\r\n") + b"hello", "413 "),
        (get("/metrics", more="Transfer-Encoding: chunked\r\n"), "413 "),
        (get("/metrics", more=f"X: {'x' * 2 * MAX_HEAD_BYTES}\r\n"), "431 "),
        (b"x" * (MAX_HEAD_BYTES + 10), "431 "),
    ],
    ids=lambda given: repr(given)[:60],
)
async def test_what_is_not_a_plain_get_is_refused(ask: Ask, request_: bytes, status: str) -> None:
    answer = await ask(request_)

    assert answer.decode().startswith(f"HTTP/1.1 {status}")
    assert (b"\r\nAllow: GET, HEAD\r\n" in answer) is status.startswith("405")
    assert b"worker_up" not in answer


async def test_a_zero_length_body_is_none(ask: Ask) -> None:
    assert b" 200 OK" in await ask(get("/metrics", more="Content-Length: 0\r\n"))


async def test_a_slow_sender_is_timed_out(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "TIMEOUT_S", 0.1)

    assert (await ask(b"GET /metrics HTT")).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert (await ask(b"")).startswith(b"HTTP/1.1 408 Request Timeout\r\n")


async def test_a_peer_that_does_not_read_the_answer_is_disconnected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "TIMEOUT_S", 0.1)

    async def much() -> bytes:
        return b"x" * 50_000_000

    pages = Pages(much, tmp_path / "healthy")
    port = await pages.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(get("/metrics"))
    await until(lambda: pages._connections)
    await until(lambda: not pages._connections)

    assert len(await all_of(reader)) < len(await much())
    writer.close()
    await pages.stop()


async def test_a_peer_that_goes_away_does_no_harm(
    ask: Ask, port: int, pages: Pages, caplog: pytest.LogCaptureFixture
) -> None:
    for request in (b"", b"GET /met", get("/metrics")):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        writer.transport.abort()
    await until(lambda: not pages._connections)

    assert b" 200 OK" in await ask(get("/metrics"))
    assert caplog.records == []


async def test_more_connections_than_anybody_needs_are_closed(
    ask: Ask, port: int, pages: Pages
) -> None:
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_CONNECTIONS)]
    await until(lambda: len(pages._connections) == MAX_CONNECTIONS)

    assert await all_of((await asyncio.open_connection("127.0.0.1", port))[0]) == b""

    for _, writer in idle:
        writer.close()
    await until(lambda: not pages._connections)
    assert b" 200 OK" in await ask(get("/metrics"))


async def test_stopping_cuts_off_what_is_asked(
    pages: Pages, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    reader, _ = await asyncio.open_connection("127.0.0.1", port)
    await until(lambda: pages._connections)

    async with asyncio.timeout(5):
        await pages.stop()

    assert await all_of(reader) == b""
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    assert caplog.records == []


async def test_metrics_that_cannot_be_collected_are_an_error_of_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> bytes:
        raise RuntimeError("a collector failed")

    pages = Pages(broken, tmp_path / "healthy")
    reader, writer = await asyncio.open_connection("127.0.0.1", await pages.start("127.0.0.1", 0))
    writer.write(get("/metrics"))

    assert (await reader.read()).startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert "the metrics cannot be collected" in caplog.text
    writer.close()
    await pages.stop()


async def test_alive_and_ready_are_what_the_probe_says(ask: Ask, tmp_path: Path) -> None:
    answer = await ask(get("/livez"))
    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert answer.endswith(b"healthy: the worker is not running\n")

    heartbeat = Heartbeat(str(tmp_path / "healthy"), 1.0)
    heartbeat.start()
    assert (await ask(get("/livez"))).endswith(b"\r\n\r\nok\n")
    answer = await ask(get("/readyz"))
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert answer.endswith(b"\r\n\r\nthe worker is starting\n")
    heartbeat.set_state("ready")
    heartbeat.availability.record_success()
    heartbeat.beat()
    assert (await ask(get("/readyz"))).endswith(b"\r\n\r\nok\n")
    await heartbeat.stop()


async def test_the_next_free_port_is_taken_and_after_some_it_gives_up(tmp_path: Path) -> None:
    first = Pages(metrics, tmp_path / "healthy")
    port = await first.start("127.0.0.1", 0)
    others = [Pages(metrics, tmp_path / "healthy") for _ in range(MAX_PORTS)]
    ports: list[int] = []

    async def start_all() -> None:
        for pages in others:
            ports.append(await pages.start("127.0.0.1", port))  # noqa: PERF401 - it fails

    with pytest.raises(OSError, match=r"(?i)address already in use"):
        await start_all()

    assert ports == sorted(set(ports))
    assert port < ports[0] <= ports[-1] < port + MAX_PORTS
    for pages in (first, *others):
        await pages.stop()
