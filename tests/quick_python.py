"""Python programs in processes that have imported their libraries already.

Imports take most of the time of a short command. Here a program is a fork of a process that has
made them, in place of a new interpreter; to the test it is a `subprocess.Popen` like any other.

A program whose environment sets up the interpreter gets a new one, and so does every program
outside Linux, in the thorough sessions, and while coverage is measured: only these show what
depends on the order of imports or on the seed of hashes, which forks share.
"""

import atexit
import gc
import importlib
import inspect
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BASE = HERE.parent / "template" / "src" / "{{package_name}}"

LIBRARIES = ("arq.worker", "click", "pydantic_settings", "redis.asyncio.sentinel", "rich.console")
OF_BASE = ("base", "cli", "cli.dlq", "cli.status", "jobs", "process.runner", "streams")
"""Imported, too, for programs that find the base here."""
PLAIN_PYTEST = "PYTEST_DISABLE_PLUGIN_AUTOLOAD"
OBEYED = {"PYTHONDONTWRITEBYTECODE", "PYTHONPATH"}
"""Variables of the interpreter that a fork can still follow."""
COPIER = ("copier", "plumbum", "prompt_toolkit", "questionary")

IS_REAL = not sys.platform.startswith("linux") or any(
    name.startswith(("ALL_SUITES", "COVERAGE_")) for name in os.environ
)
"""Whether each program gets a new interpreter."""


def run(arguments: Sequence[Any], **options: Any) -> subprocess.CompletedProcess[Any]:
    """Run a program to its end, with the options of `subprocess.run`."""
    given, timeout = options.pop("input", None), options.pop("timeout", None)
    check = options.pop("check", False)
    if options.pop("capture_output", False):
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if given is not None:
        options["stdin"] = subprocess.PIPE
    with Popen(arguments, **options) as process:
        try:
            output, errors = process.communicate(given, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(arguments, process.returncode, output, errors)
    if check:
        done.check_returncode()
    return done


class Popen(subprocess.Popen[Any]):
    """A program: ``[sys.executable, "-m", module, …]`` or ``[sys.executable, script, …]``."""

    _end: socket.socket | None = None
    """Receives the id of the process, and then how it ended; None if it is a child of ours."""

    def _execute_child(self, *arguments: Any, **options: Any) -> None:
        start = super()._execute_child  # type: ignore[misc]
        given = inspect.signature(start).bind(*arguments, **options).arguments
        program = [os.fspath(part) for part in given["args"]]
        environment = dict(os.environ if given["env"] is None else given["env"])
        special = ("preexec_fn", "pass_fds", "shell", "start_new_session")
        if IS_REAL or any(given[n] for n in special) or not _can_fork(program, environment):
            start(*arguments, **options)
            return
        streams = (given["p2cread"], given["c2pwrite"], given["errwrite"])
        inherited = [number if stream == -1 else stream for number, stream in enumerate(streams)]
        request = {
            "program": program[1:],
            "folder": str(Path(given["cwd"] or "").absolute()),
            "environment": environment,
        }
        self._end, theirs = socket.socketpair()
        with theirs:
            modules = _modules(program[1:], environment)
            with _ONE_AT_A_TIME:
                _importer(modules).start(request, [*inherited, theirs.fileno()])
        self.pid = _receive_number(self._end)
        self._child_created = True
        names = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(given[name] for name in names))  # type: ignore[attr-defined]

    def _internal_poll(self, *arguments: Any, **options: Any) -> int | None:
        if self._end is None:
            return super()._internal_poll(*arguments, **options)  # type: ignore[misc,no-any-return]
        return self.returncode if self._has_ended(self._end, 0) else None

    def _wait(self, timeout: float | None) -> int:
        if self._end is None:
            return super()._wait(timeout=timeout)  # type: ignore[misc,no-any-return]
        if not self._has_ended(self._end, timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def _has_ended(self, end: socket.socket, timeout: float | None) -> bool:
        ready = select.select([end], [], [], timeout and max(timeout, 0))[0]
        with self._waitpid_lock:  # type: ignore[attr-defined] # threads may wait for one program
            if ready and self.returncode is None:
                self.returncode = os.waitstatus_to_exitcode(_receive_number(end))
        return bool(ready)

    def __del__(self) -> None:
        super().__del__()  # type: ignore[misc]
        if self._end is not None:
            self._end.close()


def _can_fork(program: Sequence[str], environment: Mapping[str, str]) -> bool:
    if len(program) < 2 or program[0] != sys.executable:
        return False
    names = environment.keys() | os.environ.keys()
    changed = {name for name in names if os.environ.get(name) != environment.get(name)}
    special = {name for name in changed if name.startswith(("LC_", "PYTHON"))} - OBEYED
    # pytest has to import its plugins itself, since it changes them.
    with_plugins = program[1:3] == ["-m", "pytest"] and PLAIN_PYTEST not in environment
    is_program = program[1] == "-m" or not program[1].startswith("-")
    return is_program and not (special or changed & {"LANG", "LD_PRELOAD"} or with_plugins)


def _modules(program: list[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return what is imported for a program: not more, since that could hide an import."""
    if program[0] == str(HERE / "quick_copier.py"):
        return COPIER
    if program[:2] == ["-m", "pytest"]:
        return (*LIBRARIES, "pytest")
    if str(BASE) in environment.get("PYTHONPATH", "").split(os.pathsep):
        return (*LIBRARIES, *(f"workerbase.{name}" for name in OF_BASE))
    return LIBRARIES


class _Importer:
    """The process that has imported ``modules``, and whose forks are the programs."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        self._connection, theirs = socket.socketpair()
        command = [sys.executable, __file__, str(theirs.fileno()), *modules]
        environment = {**os.environ, "PYTHONPATH": str(BASE)}
        with theirs:
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL
            )
        atexit.register(self._stop)

    def _stop(self) -> None:
        self._connection.close()  # which it waits for
        self._process.wait()

    def start(self, request: Mapping[str, Any], descriptors: list[int]) -> None:
        content = json.dumps(request).encode()
        size = len(content).to_bytes(4, sys.byteorder)
        socket.send_fds(self._connection, [size], descriptors)
        self._connection.sendall(content)


_importer = cache(_Importer)
_ONE_AT_A_TIME = threading.Lock()


def _receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            raise EOFError("the process that starts programs has ended")
        received += part
    return received


def _receive_number(connection: socket.socket) -> int:
    return int.from_bytes(_receive(connection, 4), sys.byteorder)


def _serve(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork for each request; return in the program itself."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        size, descriptors, *_ = socket.recv_fds(connection, 4, 4)
        if not size:
            os._exit(0)
        request = json.loads(_receive(connection, int.from_bytes(size, sys.byteorder)))
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            program = os.fork()
            if program == 0:
                return request, descriptors
            _report(program, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _report(program: int, descriptors: Sequence[int]) -> None:
    """Send the id of the program, and how it ended; its standard streams are not kept open."""
    *streams, end = descriptors
    for descriptor in streams:
        os.close(descriptor)
    os.write(end, program.to_bytes(4, sys.byteorder))
    _, status = os.waitpid(program, 0)
    os.write(end, status.to_bytes(4, sys.byteorder))
    os._exit(0)


def _become(request: Mapping[str, Any], descriptors: Sequence[int], standard: list[str]) -> None:
    """Make of this process what a new interpreter would be; ``standard`` is its own path."""
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
    os.closerange(3, 1024)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    python_path = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    start, *arguments = request["program"]
    first = request["folder"] if start == "-m" else str(Path(start).resolve().parent)
    sys.path[:] = [first, *python_path, *standard]
    sys.argv = [start, *arguments]
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    importlib.invalidate_caches()


def _main(connection: int, *modules: str) -> None:
    standard = [path for path in sys.path if path not in (str(HERE), str(BASE))]
    sys.path.remove(str(HERE))
    for name in modules:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    request, descriptors = _serve(socket.socket(fileno=connection))
    _become(request, descriptors, standard)
    if sys.argv[0] == "-m":
        sys.argv = sys.argv[1:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    _main(int(sys.argv[1]), *sys.argv[2:])
