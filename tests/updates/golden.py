"""What a release leaves in Redis, and whether another one understands it.

``python tests/updates/golden.py VERSION`` writes the payloads of the working copy's base into
golden/VERSION. The files are dumps of real keys, written by the release's own worker process.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import quick_python
import redis

HERE = Path(__file__).parent
BASE_HERE = HERE.parent.parent / "template/src/{{package_name}}"
GOLDEN = HERE / "golden"
STREAM, SEEN = "golden", "golden:seen"
TIMEOUT_S = 60.0

if __name__ == "__main__":
    sys.path.insert(0, str(BASE_HERE))

from workerbase.testing.redis_server import Server  # noqa: E402 - any release's will do

Dump = dict[str, dict[str, Any]]

KINDS: dict[str, Callable[[str], bool]] = {
    "stream": lambda key: key == STREAM,
    "dlq": lambda key: key == f"{STREAM}:dlq",
    "parked": lambda key: key == f"{STREAM}:parked",
    "retry": lambda key: key.startswith("arq:job:requeue:"),
    "jobs": lambda key: key.startswith("arq:job:") and ":requeue:" not in key,
}


def module(base: Path) -> str:
    """Return the worker that can run on a base."""
    return "golden_worker" if (base / "workerbase" / "broker").is_dir() else "golden_worker_before"


def environment(base: Path, server: Server, folder: Path, **more: str) -> dict[str, str]:
    clean = {n: v for n, v in os.environ.items() if not n.startswith(("WORKER_", "GOLDEN_"))}
    return {
        **clean,
        "PYTHONPATH": f"{base}{os.pathsep}{HERE}",
        "WORKER_REDIS_DSN": server.dsn,
        "WORKER_HEALTH_FILE": str(folder / "healthy"),
        "WORKER_POLL_DELAY": "0.05",
        **more,
    }


@contextmanager
def worker(
    base: Path, server: Server, *, ends: int = 0, **more: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the worker on the base of some release, and let it drain at the end.

    ``ends`` is the exit code that it is to have, in case the caller kills it.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "log").open("w") as log:
            process = quick_python.Popen(
                [sys.executable, "-m", module(base), "run"],
                cwd=folder,
                env=environment(base, server, folder, **more),
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        except AssertionError as exc:
            exc.add_note((folder / "log").read_text())
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(TIMEOUT_S)
        assert process.returncode == ends, (folder / "log").read_text()


def command(base: Path, server: Server, *arguments: str) -> str:
    """Run a command of the worker, on the base of some release."""
    with tempfile.TemporaryDirectory() as folder:
        done = quick_python.run(
            [sys.executable, "-m", module(base), *arguments],
            cwd=folder,
            env=environment(base, server, Path(folder)),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen that {what}"
        time.sleep(0.05)


def write(base: Path, server: Server, **more: str) -> Dump:
    """Let the base of a release write one payload of each kind, and return the keys."""
    server.flush()
    client = redis.Redis(port=server.port)
    command(base, server, "give", "--failing")
    # The longest backoff, so that the retry job is still there when the worker has stopped.
    backoff = {"WORKER_RETRY_BACKOFF": "86400", "WORKER_RETRY_BACKOFF_MAX": "86400"}
    with worker(base, server, GOLDEN_FAIL="1", **backoff, **more):
        wait_for(
            lambda: (
                client.execute_command("XLEN", f"{STREAM}:dlq") == 1
                and client.execute_command("XLEN", f"{STREAM}:parked") == 1
                and client.execute_command("ZCARD", "arq:queue") == 1
            ),
            "one message each is dead-lettered, parked, and about to be retried",
        )
    client.delete(STREAM)  # all of it is settled; only the janitor may not have been there yet
    command(base, server, "give")
    with client:
        return read_keys(client)


def read_keys(client: redis.Redis) -> Dump:
    """Read all that another release may have to understand."""
    dump: Dump = {kind: {} for kind in KINDS}
    for raw in client.execute_command("KEYS", "*"):
        key = raw.decode()
        for kind, matches in KINDS.items():
            if matches(key):
                if kind in ("stream", "dlq", "parked"):
                    rows = client.execute_command("XRANGE", key, "-", "+")
                    value: Any = [
                        {n.decode(): v.decode() for n, v in fields.items()} for _, fields in rows
                    ]
                else:
                    value = client.execute_command("GET", key).decode()
                dump[kind][key] = value
    return dump


def handle(base: Path, server: Server, dump: Dump, **more: str) -> list[dict[str, Any]]:
    """Give the keys to a worker on the base of a release; return what its handlers saw, sorted."""
    server.flush()
    with redis.Redis(port=server.port) as client:
        for keys in dump.values():
            for key, value in keys.items():
                if isinstance(value, str):
                    client.set(key, value)
                    client.zadd("arq:queue", {key.removeprefix("arq:job:"): 1})
                for fields in value if isinstance(value, list) else ():
                    client.xadd(key, fields)
        with worker(base, server, **more):
            wait_for(lambda: client.llen(SEEN) == 5, "all but the dead letter is handled")
            command(base, server, "dlq", "replay", "--reason", "permanent")
            wait_for(lambda: client.llen(SEEN) == 6, "the dead letter is handled")
        for name in ("dlq", "parked"):
            assert client.xlen(f"{STREAM}:{name}") == 0, name
        assert client.zcard("arq:queue") == 0
        seen = [json.loads(row) for row in client.lrange(SEEN, 0, -1)]
    return sorted(seen, key=lambda what: what["name"])


def read(version: str) -> Dump:
    """Return the golden payloads of a release."""
    return {kind: json.loads((GOLDEN / version / f"{kind}.json").read_text()) for kind in KINDS}


def main(version: str, base: Path) -> None:
    """Write the golden payloads of a release."""
    with Server() as server:
        dump = write(base, server)
    (GOLDEN / version).mkdir(parents=True, exist_ok=True)
    for kind, keys in dump.items():
        text = json.dumps(keys, indent=2, sort_keys=True)
        # Where it was written says nothing; the name of a consumer has the host's in it.
        text = re.sub(r'(File \\+")[^"\\]*/', r"\1/app/", text)
        text = text.replace(socket.gethostname(), "host")
        (GOLDEN / version / f"{kind}.json").write_text(text + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else BASE_HERE)
