"""``dev``: everything that the first day needs, in one terminal; not in the wheel.

An embedded Redis that keeps its data in ``.dev/``, the worker, restarted when its code changes, and
the console with changes allowed.
"""

import ast
import asyncio
import contextlib
import importlib.util
import os
import signal
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import click
from dotenv import dotenv_values

from ...cli.app import App, pass_app
from ...environment import ENV_PREFIX
from ...errors import ConfigError
from ...testing.redis_server import Server
from .console import PORT

FOLDER = Path(".dev")
DSN = f"{ENV_PREFIX}REDIS_DSN"
STOP_S = 5.0
"""How long the worker may drain before it is killed, when its code has changed."""


@click.command()
@click.option("--port", default=PORT, show_default=True, type=click.IntRange(0, 65535))
@pass_app
def dev(app: App, port: int) -> None:
    """Run the worker for development: embedded Redis, restarts on changes, console.

    The Redis that WORKER_REDIS_DSN names is used if it is set, in the environment or in .env.
    """
    package = app.settings_path.partition(".")[0]
    environment = {
        f"{ENV_PREFIX}HEALTH_FILE": str(_folder() / "healthy"),
        f"{ENV_PREFIX}DRAIN_TIMEOUT": f"{STOP_S - 1:g}",
        **os.environ,
    }
    dsn = os.environ.get(DSN) or dotenv_values(".env").get(DSN)
    with contextlib.ExitStack() as stack:
        if not dsn:
            server = stack.enter_context(embedded())
            dsn = environment[DSN] = server.dsn
            say(f"{server.version} keeps its data in {FOLDER}/; in other terminals:")
            say(f"  export {DSN}={dsn}")
        asyncio.run(Development(package, environment, port).run())


def _folder() -> Path:
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n", "utf-8")
    return FOLDER


def embedded() -> Server:
    """Return a server that keeps its data, and its port where that is still free."""
    data, kept = _folder() / "redis", FOLDER / "port"
    data.mkdir(exist_ok=True)
    port = int(kept.read_text("utf-8")) if kept.exists() else 0
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    kept.write_text(f"{port}", "utf-8")
    return Server(persistent=True, directory=data, port=port)


def say(text: str) -> None:
    """Tell the developer."""
    click.secho(f"dev: {text}", fg="cyan")


class Development:
    """The processes of a project under development.

    Args:
        package: of the project.
        environment: of its processes.
        port: of the console.
    """

    def __init__(self, package: str, environment: dict[str, str], port: int) -> None:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            msg = f"{package} is not a package, so that there is nothing to watch"
            raise ConfigError(msg)
        self._watched = Path(next(iter(spec.submodule_search_locations)))
        self._environment = environment
        program = [sys.executable, "-m", package]
        self._programs = {
            "worker": [*program, "run"],
            "console": [*program, "console", "--allow-changes", "--port", f"{port}"],
        }
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._watchers: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Run until Ctrl-C, and restart what changes."""
        import watchfiles  # noqa: PLC0415 - it loads a native library

        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, self._stop.set)
        await self._start()
        try:
            # Its types need trio, which is not installed.
            watch = cast("Any", watchfiles).awatch
            only = watchfiles.PythonFilter()
            async for changed in watch(self._watched, watch_filter=only, stop_event=self._stop):
                names = sorted({path for _, path in changed})
                if problem := syntax_error(names):
                    say(f"{problem}; waiting for the next save")
                    continue
                say(f"{', '.join(Path(name).name for name in names)} changed: restarting")
                await self._end()
                await self._start()
        finally:
            self._stop.set()
            await self._end()

    async def _start(self) -> None:
        for name, command in self._programs.items():
            # Of a group of its own, so that Ctrl-C reaches this process alone, which stops it.
            process = await asyncio.create_subprocess_exec(
                *command, env=self._environment, process_group=0
            )
            self._processes[name] = process
            watcher = asyncio.create_task(self._watch(name, process))
            self._watchers.add(watcher)
            watcher.add_done_callback(self._watchers.discard)

    async def _watch(self, name: str, process: asyncio.subprocess.Process) -> None:
        """Say that a process has ended by itself."""
        code = await process.wait()
        if self._processes.get(name) is process and not self._stop.is_set():
            say(f"the {name} exited with {code}; waiting for the next save")

    async def _end(self) -> None:
        """Stop all processes; kill what takes too long."""
        ending, self._processes = list(self._processes.values()), {}
        for process in ending:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
        waiting = [asyncio.create_task(process.wait()) for process in ending]
        if waiting:
            await asyncio.wait(waiting, timeout=STOP_S + 1)
        for process in ending:
            if process.returncode is None:
                process.kill()
                await process.wait()


def syntax_error(names: Iterable[str]) -> str:
    """Describe the first syntax error in these files; empty if there is none."""
    for name in names:
        with contextlib.suppress(OSError):
            source = Path(name).read_bytes()
            try:
                ast.parse(source, name)
            except (SyntaxError, ValueError) as exc:
                line = getattr(exc, "lineno", None)
                return f"{name}:{line or 1}: {exc.args[0]}"
    return ""
