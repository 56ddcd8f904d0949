"""A heartbeat stops when asked, survives a failed write, and knows who else writes the file."""

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from waiting import until
from workerbase.process.heartbeat import Heartbeat, other_writer
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
    ("changes", "runs"),
    [({}, True), ({"pid_start": "12"}, False), ({"kernel_boot": "another"}, False)],
)
def test_only_a_worker_that_still_runs_is_another_writer(
    tmp_path: Path, changes: dict[str, object], runs: bool
) -> None:
    heartbeat = Heartbeat(str(tmp_path / "healthy"), 5.0)
    heartbeat.beat()
    beat = json.loads(heartbeat.path.read_text())
    assert beat["pid"] == os.getpid()
    heartbeat.path.write_text(json.dumps(beat | changes))
    assert other_writer(heartbeat.path) == (str(os.getpid()) if runs else "")


@pytest.mark.parametrize("content", ["", "{}", "[]", "a file of another program"])
def test_a_file_that_is_not_a_heartbeat_has_no_other_writer(tmp_path: Path, content: str) -> None:
    path = tmp_path / "healthy"
    path.write_text(content)
    assert other_writer(path) == ""
    assert path.read_text() == content
    assert other_writer(tmp_path / "none") == ""
    assert other_writer(tmp_path) == ""


def test_the_file_of_another_worker_is_not_removed(tmp_path: Path) -> None:
    mine, other = (Heartbeat(str(tmp_path / "healthy"), 5.0) for _ in range(2))
    other.beat()
    mine.remove()
    assert other.path.exists()
    other.remove()
    assert not other.path.exists()
