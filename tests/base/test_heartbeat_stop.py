"""A heartbeat ends when it is told to, goes on when it cannot write, and cleans up after others."""

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from waiting import until
from workerbase.health import Heartbeat, remove_stale
from workerbase.types import RedisArg


@pytest.mark.parametrize("turns", range(8))
async def test_it_stops_although_its_state_has_just_changed(tmp_path: Path, turns: int) -> None:
    heartbeat = Heartbeat(str(tmp_path / "healthy"), 5.0)
    heartbeat.start()
    await asyncio.sleep(0.01)

    heartbeat.set_state("draining")
    for _ in range(turns):
        await asyncio.sleep(0)
    stopping = asyncio.create_task(heartbeat.stop())
    done, _ = await asyncio.wait({stopping}, timeout=5)

    assert done
    assert not (tmp_path / "healthy").exists()


async def test_it_stops_although_the_client_has_swallowed_a_cancellation(tmp_path: Path) -> None:
    class Deaf:
        """Loses a cancellation, as real checks of Redis were seen to."""

        async def execute_command(self, *_: RedisArg, **__: Any) -> Any:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

    heartbeat = Heartbeat(str(tmp_path / "healthy"), 5.0)
    heartbeat.start(Deaf())
    await asyncio.sleep(0.01)

    stopping = asyncio.create_task(heartbeat.stop())
    done, _ = await asyncio.wait({stopping}, timeout=10)

    assert done
    assert not (tmp_path / "healthy").exists()


async def test_it_goes_on_when_the_file_could_not_be_written_for_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    heartbeat = Heartbeat(str(folder / "healthy"), 0.02)
    heartbeat.start()
    folder.rename(tmp_path / "away")
    await until(lambda: "cannot write the health file" in caplog.text)
    (tmp_path / "away").rename(folder)
    heartbeat.set_state("draining")
    await until(lambda: "draining" in heartbeat.path.read_text())
    heartbeat.start()  # harmless
    await heartbeat.stop()
    assert not heartbeat.path.exists()


@pytest.mark.parametrize(
    ("changes", "stays"),
    [({}, True), ({"pid_start": "12"}, False), ({"kernel_boot": "another"}, False)],
)
def test_only_the_file_of_a_worker_that_is_gone_is_stale(
    tmp_path: Path, changes: dict[str, object], stays: bool
) -> None:
    heartbeat = Heartbeat(str(tmp_path / "healthy"), 5.0)
    heartbeat.beat()
    beat = json.loads(heartbeat.path.read_text())
    assert beat["pid"] == os.getpid()
    heartbeat.path.write_text(json.dumps(beat | changes))
    remove_stale(heartbeat.path)
    assert heartbeat.path.exists() == stays


@pytest.mark.parametrize("content", ["", "{}", "[]", "a file of somebody else"])
def test_a_file_that_is_no_heartbeat_is_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "healthy"
    path.write_text(content)
    remove_stale(path)
    assert path.read_text() == content
    remove_stale(tmp_path / "none")
    remove_stale(tmp_path)
