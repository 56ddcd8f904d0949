"""During a rolling deploy, and a rollback, workers of two versions share a stream and a queue."""

import json
import signal
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from updates import golden
from updates.releases import extract_bases, releases
from workerbase.testing.redis_server import Server

HERE = "here"
RELEASES = releases()
# In a shallow clone, and before the second release, the working copy takes the place of the other.
PAIRS = [(v, HERE) for v in RELEASES] + [(HERE, v) for v in RELEASES] or [(HERE, HERE)]
JOBS = {"arq": {}, "leased": {"GOLDEN_LEASED": "1"}}
SETTINGS = {
    "GOLDEN_SECONDS": "0.05",
    "WORKER_LEASE_TIMEOUT": "1",
    "WORKER_JOB_TIMEOUT": "1",  # arq's own worker runs a dead one's jobs 10 s after this
    "WORKER_MAX_JOBS": "5",
    "WORKER_CONCURRENCY": "5",
    "WORKER_RETRY_BACKOFF": "0.1",
}
COUNT = 200
HELD = 10
"""Messages and jobs that one worker runs at once; those of the killed one run again."""


@pytest.fixture(scope="module")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {HERE: golden.BASE_HERE} | extract_bases(RELEASES, tmp_path_factory.mktemp("releases"))


@pytest.mark.parametrize("jobs", JOBS)
@pytest.mark.parametrize(
    ("before", "after"), PAIRS, ids=[f"{before}-{after}" for before, after in PAIRS]
)
def test_two_versions_share_a_stream_and_a_queue(
    server: Server, base_of: dict[str, Path], before: str, after: str, jobs: str
) -> None:
    old, new, settings = base_of[before], base_of[after], SETTINGS | JOBS[jobs]
    with redis.Redis(port=server.port) as client, ExitStack() as newer, ExitStack() as older:

        def handled() -> Counter[tuple[str, int]]:
            rows = [json.loads(row) for row in client.lrange(golden.SEEN, 0, -1)]
            return Counter((row["name"], row["number"]) for row in rows)

        victim = golden.worker(old, server, ends=-signal.SIGKILL, **settings)
        killed = older.enter_context(victim)
        older.enter_context(golden.worker(old, server, **settings))
        golden.command(old, server, "send", "0", "100")
        golden.wait_for(lambda: len(handled()) > 20, "the workers of before are at work")

        newer.enter_context(golden.worker(new, server, **settings))
        golden.command(new, server, "send", "100", "150")
        killed.kill()
        older.close()  # the other one drains
        golden.command(old, server, "send", "150", str(COUNT))
        golden.wait_for(lambda: len(handled()) == 2 * COUNT, "all of it is handled")
        golden.wait_for(lambda: client.zcard("arq:queue") == 0, "the queue is empty")

        assert sum(handled().values()) <= 2 * COUNT + HELD
        newer.close()
        (group,) = client.xinfo_groups(golden.STREAM)
        assert (group["pending"], group["lag"]) == (0, 0)
        assert not client.exists(f"{golden.STREAM}:dlq", f"{golden.STREAM}:parked", "arq:queue:dlq")
