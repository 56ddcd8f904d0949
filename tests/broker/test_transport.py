"""An address with TLS for a port without it, and the reverse, is recognized."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis import Redis
from servers import free_port
from workerbase.broker.dsn import RedisDsn
from workerbase.broker.transport import mismatch
from workerbase.testing import Server

NO_TLS = "the port has no TLS: the address must begin with redis://"
TLS = "the port has TLS: the address must begin with rediss://"


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    folder = tmp_path_factory.mktemp("certificate")
    arguments = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -keyout k -out c"
    subprocess.run(["openssl", *arguments.split()], cwd=folder, check=True, capture_output=True)
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.load_cert_chain(folder / "c", folder / "k")
    return found


@asynccontextmanager
async def tls_server(context: ssl.SSLContext) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_a_port_without_tls_is_recognized(server: Server) -> None:
    where = f"127.0.0.1:{server.port}"
    assert await mismatch(RedisDsn.parse(f"rediss://{where}")) == NO_TLS
    assert await mismatch(RedisDsn.parse(f"redis://{where}")) == ""


async def test_a_port_without_tls_that_wants_a_login_is_recognized(own_server: Server) -> None:
    with Redis(port=own_server.port) as client:
        client.config_set("requirepass", "x")
    assert await mismatch(RedisDsn.parse(f"rediss://127.0.0.1:{own_server.port}")) == NO_TLS


async def test_a_port_with_tls_is_recognized(context: ssl.SSLContext) -> None:
    async with tls_server(context) as port:
        assert await mismatch(RedisDsn.parse(f"redis://127.0.0.1:{port}")) == TLS
        assert await mismatch(RedisDsn.parse(f"rediss://127.0.0.1:{port}")) == ""


async def test_a_port_with_tls_for_clients_with_a_certificate_is_recognized(
    context: ssl.SSLContext,
) -> None:
    context.verify_mode = ssl.CERT_REQUIRED
    async with tls_server(context) as port:
        assert await mismatch(RedisDsn.parse(f"redis://127.0.0.1:{port}")) == TLS


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
async def test_what_does_not_answer_is_not_known(scheme: str) -> None:
    assert await mismatch(RedisDsn.parse(f"{scheme}://127.0.0.1:{free_port()}")) == ""
    assert await mismatch(RedisDsn.parse(f"{scheme}+sentinel://127.0.0.1:1")) == ""
    assert await mismatch(RedisDsn.parse("unix:///no/such/socket")) == ""
