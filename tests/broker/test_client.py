"""From DSN to client, on real servers: TLS, Unix socket, users, databases, Sentinel."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
import redis as sync
from arq.connections import create_pool
from redis.exceptions import ConnectionError as RedisConnectionError
from servers import binary, free_port
from workerbase.broker.client import connect, connect_sync, raw_entries, refuse_cluster
from workerbase.broker.dsn import RedisDsn
from workerbase.broker.enqueue import QueueClient
from workerbase.errors import ConfigError, PayloadError
from workerbase.process.settings import redis_settings
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient

PASSWORD = "p@ss/w:rd?#%"
QUOTED = "p%40ss%2Fw%3Ard%3F%23%25"


def program(name: str) -> str:
    """Find a program; a missing one fails the test in CI and skips it elsewhere."""
    path = shutil.which(name)
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no {name} here")
    return path


async def visit(dsn: str, *, plain_arq: bool = True) -> dict[str, object]:
    """Write and read through every kind of client; return what the server reports of them."""
    address = RedisDsn.parse(dsn)
    client = connect(address)
    same = connect_sync(address)
    try:
        await client.set("k", "async")
        assert same.get("k") == b"async"
        same.set("k", "sync")
        assert await client.get("k") == b"sync"
        if plain_arq:
            pool = await create_pool(redis_settings(address))
            assert await pool.get("k") == b"sync"
            await pool.aclose(close_connection_pool=True)
        return await client.client_info()
    finally:
        await client.aclose(close_connection_pool=True)
        same.close()


async def test_a_user_with_a_password_full_of_special_characters_logs_in_to_a_database(
    each_server: Server,
) -> None:
    admin = sync.Redis(port=each_server.port)
    admin.execute_command("ACL", "SETUSER", "us:er", "on", f">{PASSWORD}", "~*", "&*", "+@all")
    try:
        dsn = f"redis://us%3Aer:{QUOTED}@127.0.0.1:{each_server.port}/3"
        info = await visit(dsn)
        assert info["user"] == "us:er"
        assert info["db"] == 3
        wrong = connect(RedisDsn.parse(dsn.replace(QUOTED, "no")))
        with pytest.raises(sync.AuthenticationError) as caught:
            await wrong.ping()
        assert "no@" not in str(caught.value)
        await wrong.aclose(close_connection_pool=True)
    finally:
        admin.execute_command("ACL", "DELUSER", "us:er")
        admin.close()


async def test_a_password_alone_is_that_of_the_default_user() -> None:
    with Server() as server:
        admin = sync.Redis(port=server.port)
        admin.config_set("requirepass", "secret")
        admin.close()
        assert (await visit(f"redis://:secret@127.0.0.1:{server.port}/0"))["user"] == "default"
        admin = sync.Redis(port=server.port, password="secret")
        admin.config_set("requirepass", "")
        admin.close()


async def test_a_missing_password_is_reported_as_such() -> None:
    with Server() as server:
        admin = sync.Redis(port=server.port)
        admin.config_set("requirepass", "secret")
        client = connect(RedisDsn.parse(f"redis://127.0.0.1:{server.port}/0"))
        with pytest.raises(sync.AuthenticationError):
            await client.ping()
        await client.aclose(close_connection_pool=True)
        admin.config_set("requirepass", "")
        admin.close()


async def test_a_server_that_accepts_and_does_not_answer_times_out() -> None:
    with Server() as server:
        client = connect(RedisDsn.parse(f"redis://127.0.0.1:{server.port}/0"))
        server.freeze()
        try:
            async with asyncio.timeout(60):
                with pytest.raises(sync.TimeoutError, match="Timeout"):
                    await client.ping()
        finally:
            server.thaw()
        await client.aclose(close_connection_pool=True)


async def test_a_unix_socket_is_connected_to(tmp_path: Path) -> None:
    path = tmp_path / "redis,socket"
    with Server(options=("--unixsocket", str(path))):
        info = await visit(f"unix://{str(path).replace(',', '%2C')}?db=2")
    assert info["db"] == 2
    assert str(path) in str(info["laddr"])


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a CA, and certificates for a server (localhost alone) and a client."""
    openssl = program("openssl")
    folder = tmp_path_factory.mktemp("tls")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test CA")
    for name in ("server", "client"):
        (folder / "ext").write_text("subjectAltName=DNS:localhost\n")
        run("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key",
            "-CAcreateserial", "-out", f"{name}.crt", "-extfile", "ext")  # fmt: skip
    return folder


def tls_options(folder: Path, port: int) -> tuple[str, ...]:
    return (
        "--tls-port", str(port), "--tls-cert-file", str(folder / "server.crt"),
        "--tls-key-file", str(folder / "server.key"), "--tls-ca-cert-file", str(folder / "ca.crt"),
        "--tls-auth-clients", "yes",
    )  # fmt: skip


def tls_query(folder: Path) -> str:
    return (
        f"ssl_ca_certs={folder / 'ca.crt'}&ssl_certfile={folder / 'client.crt'}"
        f"&ssl_keyfile={folder / 'client.key'}"
    )


async def test_tls_with_a_client_certificate_checks_the_server(certificates: Path) -> None:
    port = free_port()
    query = tls_query(certificates)
    with Server(binary=binary("redis-7"), options=tls_options(certificates, port)):
        await visit(f"rediss://localhost:{port}/1?{query}")
        for untrusted in (
            f"rediss://localhost:{port}/1",  # the CA is not known
            f"rediss://127.0.0.1:{port}/1?{query}",  # not the name in the certificate
        ):
            client = connect(RedisDsn.parse(untrusted))
            same = connect_sync(RedisDsn.parse(untrusted))
            with pytest.raises(RedisConnectionError, match="certificate"):
                await client.ping()
            with pytest.raises(RedisConnectionError, match="certificate"):
                same.ping()
            await client.aclose(close_connection_pool=True)
            same.close()


@contextlib.contextmanager
def sentinel(
    folder: Path, master_port: int, extra: str = "", kind: str = "valkey"
) -> Iterator[int]:
    """A real Sentinel that watches one master, shop; yields its port."""
    server, master = binary(kind), "shop"
    port = free_port()
    file = folder / "sentinel.conf"
    file.write_text(
        f"port {port}\ndir {folder}\nbind 127.0.0.1\nsentinel resolve-hostnames yes\n"
        f"sentinel announce-hostnames yes\n{extra.format(port=port)}"
        f"sentinel monitor {master} localhost {master_port} 1\n"
        f"sentinel down-after-milliseconds {master} 1000\n"
        f"sentinel failover-timeout {master} 2000\n"
    )
    with (folder / "sentinel.log").open("wb") as log:
        process = subprocess.Popen([server.path, str(file), "--sentinel"], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert process.poll() is None, (folder / "sentinel.log").read_text()
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


async def test_sentinel_with_a_password_of_its_own_names_the_master(
    tmp_path: Path,
) -> None:
    with (
        Server() as master,
        sentinel(tmp_path, master.port, extra="requirepass watch\n") as port,
    ):
        gone = free_port()
        dsn = f"redis+sentinel://127.0.0.1:{gone},127.0.0.1:{port}/2?master=shop"
        # plain arq cannot log in to Sentinel
        info = await visit(f"{dsn}&sentinel_password=watch", plain_arq=False)
        assert info["db"] == 2
        assert str(info["laddr"]).endswith(f":{master.port}")


async def test_clients_follow_a_failover(tmp_path: Path) -> None:
    with (
        Server() as master,
        Server() as replica,
        sync.Redis(port=replica.port) as admin,
        sync.Redis(port=master.port) as first,
    ):
        admin.replicaof("localhost", str(master.port))
        wait_until(lambda: admin.info("replication")["master_link_status"] == "up")
        with sentinel(tmp_path, master.port) as port, sync.Redis(port=port) as watcher:
            wait_until(lambda: watcher.sentinel_slaves("shop"))
            address = RedisDsn.parse(f"redis+sentinel://127.0.0.1:{port}/0?master=shop")
            client = connect(address)
            same = connect_sync(address)
            pool = await create_pool(redis_settings(address))
            await client.set("k", "before")
            assert await pool.get("k") == b"before"
            assert first.wait(1, 5000) == 1
            master.kill()
            wait_until(lambda: admin.role()[0] == b"master")
            for _ in range(200):  # on a slow machine Sentinel considers the new one down, too
                with contextlib.suppress(sync.RedisError):
                    await client.set("k", "after")
                    break
                await asyncio.sleep(0.1)
            assert admin.get("k") == b"after"
            assert same.get("k") == b"after"
            same.close()
            await client.aclose(close_connection_pool=True)
            await pool.aclose(close_connection_pool=True)
            for asked in pool.connection_pool.sentinel_manager.sentinels:
                await asked.aclose()  # arq's pool leaves them open


async def test_sentinel_and_master_may_both_accept_tls_only(
    tmp_path: Path, certificates: Path
) -> None:
    port = free_port()
    options = tls_options(certificates, port)
    lines = [f"{options[i][2:]} {options[i + 1]}" for i in range(2, len(options), 2)]
    extra = "tls-port {port}\ntls-replication yes\nport 0\n" + "\n".join(lines) + "\n"
    with (
        Server(binary=binary("redis-7"), options=options),
        sentinel(tmp_path, port, extra, kind="redis-7") as watcher,
    ):
        dsn = f"rediss+sentinel://localhost:{watcher}/1?master=shop&{tls_query(certificates)}"
        info = await visit(dsn, plain_arq=False)
    assert str(info["laddr"]).endswith(f":{port}")


# --- all clients


async def test_a_client_connects_again_after_an_outage(own_server: Server) -> None:
    client = connect(RedisDsn.parse(own_server.dsn))
    same = connect_sync(RedisDsn.parse(own_server.dsn))
    await client.set("k", 1)
    assert same.get("k") == b"1"
    own_server.stop()
    with pytest.raises(RedisConnectionError):
        await client.get("k")
    with pytest.raises(RedisConnectionError):
        same.get("k")
    own_server.start()
    assert await client.get("k") == b"1"
    assert same.get("k") == b"1"
    await client.aclose(close_connection_pool=True)
    same.close()


async def test_a_client_of_the_base_writes_jobs_as_json_to_the_queue_it_was_given(
    server: Server,
) -> None:
    client = connect(RedisDsn.parse(server.dsn), "mail")
    job = await client.enqueue_job("work", 1)
    assert job is not None
    assert await client.zrange("mail", 0, -1) == [job.job_id.encode()]
    body = await client.get(f"arq:job:{job.job_id}")
    assert body.startswith(b'{"t":null,"f":"work"')
    await client.aclose(close_connection_pool=True)


async def test_raw_entries_come_as_redis_sends_them(server: Server, client: RedisClient) -> None:
    entry_id = await client.execute_command("XADD", "s", "*", "a", "1")
    await client.execute_command("XGROUP", "CREATE", "s", "g", "0")
    reader = connect(RedisDsn.parse(server.dsn))
    reply = await raw_entries(reader).execute_command(
        "XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">"
    )
    assert reply == [[b"s", [[entry_id, [b"a", b"1"]]]]]
    await reader.aclose(close_connection_pool=True)


async def test_a_client_refuses_jobs_larger_than_its_limit(server: Server) -> None:
    client = connect(RedisDsn.parse(server.dsn), "mail", 200)
    assert (client.default_queue_name, client.max_payload_bytes) == ("mail", 200)
    with pytest.raises(PayloadError, match=r"job work has .* WORKER_MAX_PAYLOAD allows 200"):
        await client.enqueue_job("work", "x" * 200)
    assert await client.dbsize() == 0
    await client.aclose(close_connection_pool=True)


async def test_limit_and_queue_have_defaults() -> None:
    client = connect(RedisDsn.parse("redis://localhost"))
    assert isinstance(client, QueueClient)
    assert (client.default_queue_name, client.max_payload_bytes) == ("arq:queue", 1_048_576)


async def test_a_cluster_is_refused_and_a_single_server_or_none_is_not(
    client: RedisClient,
) -> None:
    await refuse_cluster(client)
    gone = connect(RedisDsn.parse(f"redis://127.0.0.1:{free_port()}"))
    await refuse_cluster(cast("RedisClient", gone))
    await gone.aclose(close_connection_pool=True)

    class Cluster:
        async def execute_command(self, *args: object, **_: object) -> object:
            assert args[0] == "EVAL"
            raise sync.ResponseError("CROSSSLOT Keys in request don't hash to the same slot")

    with pytest.raises(ConfigError, match="leads to a Redis Cluster"):
        await refuse_cluster(Cluster())
