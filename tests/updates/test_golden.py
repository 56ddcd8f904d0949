"""During a rolling deploy, each release handles what another one left in Redis."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from updates import golden
from updates.releases import BASE, extract, releases
from workerbase.devtools.server import Server

RELEASES = releases()

every_release = pytest.mark.parametrize("version", list(RELEASES))

RICH = {
    "at": "2026-11-24 12:30:00+00:00",
    "day": "2026-11-24",
    "wait": "0:01:30.500000",
    "key": "00000000-0000-0000-0000-000000000007",
    "price": "9.90",
    "raw": "bytes",
    "tags": ["a", "b"],
}
HANDLED = [
    {"name": "later", **RICH},
    {"name": "now", **RICH},
    {"name": "parked", "amount": "12.50", "attempt": 1},
    {"name": "permanent", "number": 7, "attempt": 1},
    {"name": "published", "number": 7, "attempt": 1},
    {"name": "retried", "number": 7, "attempt": 2},
]


@pytest.fixture(scope="session")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The base of each release, where it can be imported."""
    found: dict[str, Path] = {}
    for version, commit in RELEASES.items():
        folder = tmp_path_factory.mktemp("release")
        extract(commit, folder)
        found[version] = folder / BASE.parent
    return found


def shape(dump: golden.Dump) -> dict[str, Any]:
    """What does not change from one run to the next."""
    entries = {
        kind: [v for v in keys.values() if isinstance(v, list)] for kind, keys in dump.items()
    }
    return {
        kind: [sorted(fields) for fields in found[0]] if (found := entries[kind]) else len(keys)
        for kind, keys in dump.items()
    }


@pytest.fixture(scope="module")
def written_here(session_server: Server) -> golden.Dump:
    return golden.write(golden.BASE_HERE, session_server)


@every_release
def test_this_version_handles_what_a_release_wrote(version: str, server: Server) -> None:
    assert golden.handle(golden.BASE_HERE, server, golden.read(version)) == HANDLED


@every_release
def test_a_release_handles_what_this_version_writes(
    version: str, server: Server, base_of: dict[str, Path], written_here: golden.Dump
) -> None:
    assert golden.handle(base_of[version], server, written_here) == HANDLED


@every_release
def test_the_golden_payloads_are_what_the_release_writes(
    version: str, server: Server, base_of: dict[str, Path]
) -> None:
    written = golden.write(base_of[version], server)

    assert shape(written) == shape(golden.read(version))


WRITE = "print(wire.dumps({'result': KeyError('x')}).decode())"
READ = "print(repr(wire.loads(sys.argv[1].encode())['result']))"


@every_release
def test_the_error_of_a_failed_job_is_read_by_either(
    version: str, base_of: dict[str, Path]
) -> None:
    def say(base: Path, code: str, *arguments: str) -> str:
        return subprocess.check_output(
            [sys.executable, "-c", f"import sys; from workerbase import wire; {code}", *arguments],
            env={**os.environ, "PYTHONPATH": str(base)},
            text=True,
        ).strip()

    here, old = golden.BASE_HERE, base_of[version]
    for writer, reader in ((here, old), (old, here)):
        assert say(reader, READ, say(writer, WRITE)) == """JobFailedError("KeyError: 'x'")"""
