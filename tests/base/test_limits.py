"""What a deployment has to grant, derived from the configuration."""

import pytest
from workerbase.config import WorkerConfig
from workerbase.limits import STOP_S, Limits


def test_times_are_rounded_up_to_whole_seconds() -> None:
    config = WorkerConfig(
        drain_timeout=12.1, lease_timeout=7.2, heartbeat_interval=2.6, concurrency=5, prefetch=7
    )
    limits = Limits.of(config)
    assert limits.grace == 13 + STOP_S
    assert (limits.stuck_grace, limits.proving) == (8, 8)
    assert (limits.beat, limits.probe_period) == (3, 6)
    assert limits.held == 12


@pytest.mark.parametrize(("slots", "most"), [(20, 200), (495, 10), (2_000, 2)])
def test_more_slots_leave_room_for_fewer_workers(slots: int, most: int) -> None:
    config = WorkerConfig(concurrency=slots, max_jobs=slots)
    assert Limits.of(config).most_workers == most
