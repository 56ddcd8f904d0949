"""A heartbeat ends when it is told to, whatever it was about to do."""

import asyncio
from pathlib import Path

import pytest
from workerbase.health import Heartbeat


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
