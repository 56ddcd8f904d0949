"""During a rolling deploy, each release handles what another one left in Redis.

Data outlive code: the payloads in golden/ are those of all formats that there have been, also from
before the oldest version that a project can be updated from.
"""

import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from updates import golden
from updates.releases import OLDEST, ROOT, changelog_version, extract_bases, git, releases
from workerbase.testing.redis_server import Server


def before_the_oldest() -> dict[str, str]:
    """Return the commits of the formats from before `OLDEST`, as far as the clone has them.

    Of 0.9.0 is what CHANGELOG.md called 1.0.0 until it was renamed, and never tagged.
    """
    found: dict[str, str] = {}
    log = ("log", "--first-parent", "--reverse", "--format=%H")
    if git(ROOT, "rev-parse", "--is-shallow-repository").strip() == "true":
        return found
    found["0.0.1"] = git(ROOT, *log, "copier.yml").split()[0]
    for commit in git(ROOT, *log, "CHANGELOG.md").split():
        if changelog_version(git(ROOT, "show", f"{commit}:CHANGELOG.md")) == "1.0.0":
            return {**found, "0.9.0": commit}
    return found


RELEASES = before_the_oldest() | releases()

every_release = pytest.mark.parametrize("version", list(RELEASES))
every_format = pytest.mark.parametrize(
    "version", sorted(path.name for path in golden.GOLDEN.iterdir())
)
both_services = pytest.mark.parametrize("jobs", [{}, {"GOLDEN_LEASED": "1"}], ids=["arq", "leased"])
"""What runs the jobs: arq's own worker, or `LeasedJobs`."""

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
    return extract_bases(RELEASES, tmp_path_factory.mktemp("releases"))


ADDED = frozenset[str]()
"""Fields that are new since the newest golden payloads; older releases ignore them."""


def shape(dump: golden.Dump, without: Collection[str] = ()) -> dict[str, Any]:
    """What does not change from one run to the next."""
    entries = {
        kind: [v for v in keys.values() if isinstance(v, list)] for kind, keys in dump.items()
    }
    return {
        kind: [sorted(fields.keys() - {*without}) for fields in found[0]]
        if (found := entries[kind])
        else len(keys)
        for kind, keys in dump.items()
    }


@pytest.fixture(scope="module", params=[{}, {"GOLDEN_LEASED": "1"}], ids=["arq", "leased"])
def written_here(request: pytest.FixtureRequest, session_server: Server) -> golden.Dump:
    return golden.write(golden.BASE_HERE, session_server, **request.param)


def test_both_services_leave_the_same_format(server: Server, written_here: golden.Dump) -> None:
    newest = max(path.name for path in golden.GOLDEN.iterdir())

    assert shape(written_here, ADDED) == shape(golden.read(newest))


@both_services
@every_format
def test_this_version_handles_what_a_release_wrote(
    version: str, server: Server, jobs: dict[str, str]
) -> None:
    assert golden.handle(golden.BASE_HERE, server, golden.read(version), **jobs) == HANDLED


def test_there_are_payloads_of_each_release() -> None:
    assert {"0.0.1", "0.9.0"} <= {path.name for path in golden.GOLDEN.iterdir()}
    assert {*releases()} <= {path.name for path in golden.GOLDEN.iterdir()}
    assert not {"0.0.1", "0.9.0"} & {*releases()}, f"updates start from {OLDEST}"


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


CODEC = "from workerbase.broker import codec"
WRITE = "print(codec.dumps({'result': KeyError('x')}).decode())"
READ = "print(repr(codec.loads(sys.argv[1].encode())['result']))"


@every_release
def test_the_error_of_a_failed_job_is_read_by_either(
    version: str, base_of: dict[str, Path]
) -> None:
    def say(base: Path, code: str, *arguments: str) -> str:
        before = golden.module(base) == "golden_worker_before"
        codec = "from workerbase import wire as codec" if before else CODEC
        return subprocess.check_output(
            [sys.executable, "-c", f"import sys; {codec}; {code}", *arguments],
            env={**os.environ, "PYTHONPATH": str(base)},
            text=True,
        ).strip()

    here, old = golden.BASE_HERE, base_of[version]
    for writer, reader in ((here, old), (old, here)):
        assert say(reader, READ, say(writer, WRITE)) == """JobFailedError("KeyError: 'x'")"""
