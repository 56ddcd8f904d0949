"""Servers with the generated users: the file as it is deployed, by the recipe that it gives."""

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import redis as sync
from workerbase.devtools.server import Binary, Server
from workerbase.types import SyncRedisClient

TEMPLATE = Path(__file__).parents[2] / "template" / "deploy" / "redis" / "users.conf.jinja"
PASSWORDS = {"worker": "w0rk 'em #1", "publisher": "p%sh", "admin": "ädmin"}


def rendered(stream: str = "orders") -> str:
    return TEMPLATE.read_text("utf-8").replace("{{ stream_name }}", stream)


def deployed(folder: Path, text: str) -> Path:
    """Give the users their passwords with the commands in the file's own comment."""
    (folder / "users.conf").write_text(text, "utf-8")
    recipe = re.findall(r"^#   ((?:hash|sed| ).*)$", text, re.MULTILINE)
    done = subprocess.run(
        ["bash", "-euc", "\n".join(recipe)],
        cwd=folder,
        env=os.environ | {f"{user.upper()}_PASSWORD": p for user, p in PASSWORDS.items()},
        check=True,
        capture_output=True,
    )
    path = folder / "deployed.conf"
    path.write_bytes(done.stdout)
    return path


class GuardedServer(Server):
    """A server with the users of a file."""

    def __init__(self, users: Path, *, binary: Binary | None = None) -> None:
        super().__init__(options=("--include", str(users)), binary=binary)

    @contextlib.contextmanager
    def _client(self) -> Iterator[SyncRedisClient]:
        with self.login("admin") as client:
            yield cast("SyncRedisClient", client)

    def login(self, user: str) -> sync.Redis:
        return sync.Redis(port=self.port, username=user, password=PASSWORDS[user])
