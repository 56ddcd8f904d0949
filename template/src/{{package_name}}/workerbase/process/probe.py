"""Checks whether the worker of this machine or container is alive, or ready.

    python -I -S probe.py [live|ready] [path]

Exits 0 and prints "ok", or exits 1 and prints what is wrong. It uses the standard library only,
imports nothing of the application and opens no connection, so that it is cheap and does not fail
for reasons of its own. ``-I`` keeps the modules beside this file out of the import path.

The heartbeat file (see `heartbeat`) counts only if the process that wrote it still runs: a file
that survived a SIGKILL, a container restart or a reboot is not a sign of life.
"""

import json
import os
import sys
import time

DEFAULT_PATH = "/tmp/arq_worker_healthy"  # noqa: S108 - documented default


def kernel_boot() -> str:
    """Identify this boot of the machine; empty where the system does not provide it."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def process_start(pid: int) -> str:
    """Identify a process, unlike a later one with the same pid; empty if there is none.

    On Linux this is the start time (field 22 of /proc/PID/stat, see proc(5)); elsewhere only
    whether the process exists is known.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # The program's name, in parentheses, may hold blanks.
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        if os.path.exists("/proc/self/stat"):
            return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "exists"
    return "exists"


def check(path: str, *, ready: bool) -> str:
    """Return what is wrong, or an empty string."""
    try:
        with open(path, encoding="utf-8") as file:
            beat = json.load(file)
    except FileNotFoundError:
        return f"no heartbeat file {path}: the worker is not running"
    except (OSError, ValueError) as exc:
        return f"heartbeat file {path} cannot be read: {exc}"
    try:
        return _judge(beat, ready)
    except (KeyError, TypeError, ValueError) as exc:
        return f"heartbeat file {path} is not a heartbeat of this base: {exc!r}"


def note(path: str) -> str:
    """Return what else the worker reports about itself, to follow "ok"."""
    try:
        with open(path, encoding="utf-8") as file:
            said = str(json.load(file)["note"])
    except (OSError, KeyError, TypeError, ValueError):
        return ""
    return said and f", but {said}"


def who_is_gone(beat: dict[str, object]) -> str:
    """Return why the process that wrote ``beat`` no longer runs; empty if it runs."""
    if beat["kernel_boot"] != kernel_boot():
        return "the heartbeat is from before the machine started"
    if process_start(int(str(beat["pid"]))) != beat["pid_start"]:
        return f"the worker (pid {beat['pid']}) is gone"
    return ""


def _judge(beat: dict[str, object], ready: bool) -> str:
    if gone := who_is_gone(beat):
        return gone
    now = time.monotonic()
    age = now - float(str(beat["at"]))
    max_age = float(str(beat["max_age"]))
    if not 0 <= age <= max_age:
        return (
            f"the last heartbeat is {age:.0f} s old, more than {max_age:.0f} s: the worker is stuck"
        )
    if beat["stalled_at"] is not None and now > float(str(beat["stalled_at"])):
        return f"{beat['stalled']} makes no progress"
    if beat["overdue_at"] is not None and now > float(str(beat["overdue_at"])):
        return f"{beat['overdue']} runs longer than its timeout"
    if not ready:
        return ""
    if beat["state"] != "ready":
        return f"the worker is {beat['state']}"
    if not beat["redis"]:
        return f"the worker cannot use Redis: {beat['redis_problem']}"
    return ""


def main(argv: list[str]) -> int:
    """Run the probe."""
    mode = argv[1] if len(argv) > 1 else "live"
    if mode not in ("live", "ready") or len(argv) > 3:
        print("usage: probe.py [live|ready] [path]")
        return 2
    path = argv[2] if len(argv) > 2 else os.environ.get("WORKER_HEALTH_FILE", DEFAULT_PATH)
    problem = check(path, ready=mode == "ready")
    print(problem or f"ok{note(path)}")
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
