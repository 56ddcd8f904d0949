"""Scripts are found beside the module that runs them, include others, and reach any server."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis as sync
from redis.exceptions import ResponseError
from workerbase.broker import queue_scripts
from workerbase.broker.scripts import Script
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient

MakePackage = Callable[..., str]


@pytest.fixture
def make_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakePackage:
    """Make a package with scripts; return the name of a module in it."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(**scripts: str) -> str:
        folder = tmp_path / "scripted" / "lua"
        folder.mkdir(parents=True)
        (tmp_path / "scripted" / "__init__.py").touch()
        for name, source in scripts.items():
            (folder / f"{name}.lua").write_text(source, encoding="utf-8")
        monkeypatch.delitem(sys.modules, "scripted", raising=False)
        return "scripted.steps"

    return make


class Recording:
    """A client that writes down which commands it is given."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.commands: list[str] = []

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        self.commands.append(args[0])
        return await self.client.execute_command(*args, **options)


class SyncRecording(Recording):
    def execute_command(self, *args: Any, **options: Any) -> Any:
        self.commands.append(args[0])
        return self.client.execute_command(*args, **options)


# --- loading


def test_a_script_is_the_text_of_its_file(make_package: MakePackage) -> None:
    module = make_package(greet="-- Grüße\nreturn 1\n")
    assert Script.load(module, "greet").source == "-- Grüße\nreturn 1\n"


def test_an_include_comes_from_the_package_itself_before_the_broker(
    make_package: MakePackage,
) -> None:
    module = make_package(script="-- #include keys\nreturn 1\n", keys="local own = 1\n")
    source = Script.load(module, "script").source
    assert "local own = 1" in source
    assert "local function job_key" not in source


def test_what_the_broker_includes_is_the_brokers(make_package: MakePackage) -> None:
    module = make_package(script="-- #include schedule_job\n", keys="local own = 1\n")
    source = Script.load(module, "script").source
    assert "local function wake_channel" in source
    assert "local own = 1" not in source


def test_a_file_is_included_once_and_before_what_uses_it(make_package: MakePackage) -> None:
    module = make_package(
        script="-- #include left\n-- #include right\nreturn left() + right()\n",
        left="-- #include both\nlocal function left() return both end\n",
        right="-- #include both\nlocal function right() return both end\n",
        both="local both = 1\n",
    )
    source = Script.load(module, "script").source
    assert source.count("local both = 1") == 1
    assert source.index("local both") < source.index("local function left")


def test_files_that_include_each_other_end(make_package: MakePackage) -> None:
    module = make_package(one="-- #include other\nlocal a\n", other="-- #include one\nlocal b\n")
    assert Script.load(module, "one").source.split() == ["local", "b", "local", "a"]


def test_only_a_line_of_its_own_is_an_include(make_package: MakePackage) -> None:
    source = "local a = 1 -- #include gone\n  -- #include gone\n-- #include gone too\n"
    module = make_package(script=source)
    assert Script.load(module, "script").source == source


@pytest.mark.parametrize("name", ["gone", "including"])
def test_a_missing_file_is_an_error_at_import(make_package: MakePackage, name: str) -> None:
    module = make_package(including="-- #include gone\n")
    with pytest.raises(FileNotFoundError, match="gone"):
        Script.load(module, name)


def test_a_script_of_the_broker_is_not_a_script_of_another_package(
    make_package: MakePackage,
) -> None:
    module = make_package()
    with pytest.raises(FileNotFoundError):
        Script.load(module, "enqueue")


# --- running


async def test_a_server_is_sent_the_source_once(client: RedisClient) -> None:
    script = Script("return {KEYS[1], ARGV[1], #KEYS, #ARGV} -- once")
    await client.execute_command("SCRIPT", "FLUSH")
    recording = Recording(client)
    for _ in range(2):
        assert await script(recording, ["key"], ["text"]) == [b"key", b"text", 1, 1]
    assert recording.commands == ["EVALSHA", "EVAL", "EVALSHA"]


async def test_a_server_that_lost_its_scripts_is_sent_them_again(client: RedisClient) -> None:
    script = Script("return #KEYS + #ARGV -- again")
    assert await script(client, ["key"]) == 1
    await client.execute_command("SCRIPT", "FLUSH")
    assert await script(client, ["key"], [1, 2.5, b"\xff"]) == 4


def test_a_script_runs_without_an_event_loop(server: Server) -> None:
    script = Script("return {KEYS[1], ARGV[1]} -- threads")
    with sync.Redis.from_url(server.dsn) as client:
        client.execute_command("SCRIPT", "FLUSH")
        recording = SyncRecording(client)
        for _ in range(2):
            assert script.run_sync(recording, ["key"], ["text"]) == [b"key", b"text"]
    assert recording.commands == ["EVALSHA", "EVAL", "EVALSHA"]


async def test_an_error_of_the_script_is_raised_and_the_script_not_sent_again(
    client: RedisClient,
) -> None:
    script = Script("return redis.call('GET', KEYS[1])")
    await client.execute_command("SADD", "key", "member")
    await client.execute_command("SCRIPT", "LOAD", script.source)
    recording = Recording(client)
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await script(recording, ["key"])
    assert recording.commands == ["EVALSHA"]


async def test_the_digest_is_that_of_the_whole_text(client: RedisClient) -> None:
    script = Script.load(queue_scripts.__name__, "enqueue")
    loaded = await client.execute_command("SCRIPT", "LOAD", script.source)
    assert loaded.decode() == hashlib.sha1(script.source.encode()).hexdigest()
    assert await client.execute_command("SCRIPT", "EXISTS", loaded) in ([1], [True])
