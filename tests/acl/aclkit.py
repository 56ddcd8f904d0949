"""Servers with the generated users: the file as it is deployed, by the recipe that it gives."""

import contextlib
import os
import re
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import cast

import jinja2
import redis as sync
from workerbase.testing.redis_server import Binary, Server
from workerbase.types import SyncRedisClient

TEMPLATE = Path(__file__).parents[2] / "template" / "deploy" / "redis" / "users.conf.jinja"
PASSWORDS = {"worker": "w0rk 'em #1", "publisher": "p%sh", "admin": "ädmin"}

JOBS_OF_ARQ, JOBS_OF_LEASES = ("streams",), ("streams", "leased_jobs")
PROJECTS = {"arq": JOBS_OF_ARQ, "leased": JOBS_OF_LEASES, "no-streams": ()}
"""Features of projects whose users differ: arq's worker or leases, with streams or without."""


def rendered(features: Collection[str], stream: str = "orders", queue: str = "arq:queue") -> str:
    """Return the file of a project with these features."""
    template = jinja2.Template(
        TEMPLATE.read_text("utf-8"), keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    return template.render(features=features, stream_name=stream, queue_name=queue)


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
