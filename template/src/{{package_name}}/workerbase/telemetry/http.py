"""``/metrics``, ``/livez`` and ``/readyz``, answered by the worker's own event loop.

A thread would report a stuck worker as alive, and the frameworks that would fit in as few lines
bring a thread or a server of their own. So the sockets are asyncio's, HTTP is h11's, and
everything that a client can cause has a bound.
"""

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path

import h11
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from ..engine.supervisor import cancel
from ..process import probe

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES = 8192
TIMEOUT_S = 5.0
"""How long the request may take to arrive, and the response to be read."""
MAX_CONNECTIONS = 16
"""Maximum number of open connections; Prometheus and the kubelet need fewer."""
MAX_PORTS = 20
"""Maximum number of ports that are tried, from the configured one on."""


class RequestError(Exception):
    """The request is refused."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


async def read(parser: h11.Connection, reader: asyncio.StreamReader) -> tuple[str, str]:
    """Read a request; return its method and path.

    Raises:
        RequestError: it is not HTTP, not a GET or HEAD, or has a body.
        EOFError: the peer has closed the connection.
    """
    while (event := parser.next_event()) is h11.NEED_DATA:
        parser.receive_data(await reader.read(MAX_HEAD_BYTES))
    if not isinstance(event, h11.Request):
        raise EOFError  # noqa: TRY004 - no type is wrong: the peer is gone
    if event.http_version not in (b"1.1", b"1.0"):
        raise RequestError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
    if not event.target.startswith(b"/"):
        raise RequestError(HTTPStatus.BAD_REQUEST)
    fields = dict(event.headers)
    if b"transfer-encoding" in fields or fields.get(b"content-length", b"0") != b"0":
        raise RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    if event.method not in (b"GET", b"HEAD"):
        raise RequestError(HTTPStatus.METHOD_NOT_ALLOWED)
    return event.method.decode(), event.target.partition(b"?")[0].decode("latin-1")


class Pages:
    """The three pages.

    Args:
        metrics: makes the page of metrics.
        health_file: the file that `probe` checks.
    """

    def __init__(self, metrics: Callable[[], Awaitable[bytes]], health_file: Path) -> None:
        self._metrics = metrics
        self._health_file = str(health_file)
        self._server: asyncio.AbstractServer | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> int:
        """Serve on ``port``, or on the next free one; return the port.

        Raises:
            OSError: no port is free, or the host is not an address of this machine.
        """
        server = await self._listen(host, port)
        self._server = server
        bound = int(server.sockets[0].getsockname()[1])
        taken = f" (port {port} is taken)" if port not in (0, bound) else ""
        logger.info("metrics are at http://%s:%d/metrics%s", host, bound, taken)
        return bound

    async def _listen(self, host: str, port: int) -> asyncio.Server:
        last = min(port + MAX_PORTS - 1, 65535) if port else 0
        while True:
            try:
                return await asyncio.start_server(self._accept, host, port)
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE or port >= last:
                    raise
                port += 1

    async def stop(self) -> None:
        """Stop serving; open connections are closed."""
        if self._server is not None:
            self._server.close()
        await cancel(self._connections)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer), name="metrics: request")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # A peer that disconnects, or is too slow, is not an error of the worker.
            with suppress(OSError, EOFError):
                await self._answer(reader, writer)
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method = "GET"
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                method, path = await read(parser, reader)
            status, body = await self._page(path)
        except TimeoutError:
            status, body = HTTPStatus.REQUEST_TIMEOUT, b""
        except h11.RemoteProtocolError as exc:
            status, body = HTTPStatus(exc.error_status_hint), b""
        except RequestError as exc:
            status, body = exc.status, b""
        body = body or f"{status.phrase}\n".encode()
        fields = [
            ("Content-Type", CONTENT_TYPE_PLAIN_0_0_4),
            ("Content-Length", str(len(body))),
            *([("Allow", "GET, HEAD")] if status is HTTPStatus.METHOD_NOT_ALLOWED else ()),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Connection", "close"),
        ]
        response = h11.Response(status_code=status.value, headers=fields, reason=status.phrase)
        writer.write(parser.send(response) or b"")
        if method != "HEAD":
            writer.write(body)
        async with asyncio.timeout(TIMEOUT_S):
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    async def _page(self, path: str) -> tuple[HTTPStatus, bytes]:
        match path:
            case "/metrics":
                try:
                    return HTTPStatus.OK, await self._metrics()
                except Exception:  # a collector of the project may raise anything
                    logger.exception("the metrics cannot be collected")
                    return HTTPStatus.INTERNAL_SERVER_ERROR, b""
            case "/livez" | "/readyz":
                problem = probe.check(self._health_file, ready=path == "/readyz")
                status = HTTPStatus.SERVICE_UNAVAILABLE if problem else HTTPStatus.OK
                return status, f"{problem or 'ok'}\n".encode()
            case _:
                return HTTPStatus.NOT_FOUND, b""
