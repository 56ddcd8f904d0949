"""``status --watch``: the screen at two widths, and the command in a real terminal."""

import asyncio
import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Awaitable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from processkit import PATIENCE_S, Project
from redis.exceptions import ConnectionError as RedisConnectionError
from rich.console import Console
from workerbase.console.cli.watch import View, repeat, share, spark, step
from workerbase.console.overview import Due, InFlight, Later, Overview, Worker
from workerbase.engine.pauses import Pause
from workerbase.engine.sources import SourceStatus
from workerbase.inspector.dead_letters import DeadLetterSummary, ErrorGroup
from workerbase.inspector.status import Status

SIZES = [(80, 24), (160, 50)]
LONG = "x" * 300


def stream(name: str, waiting: int = 12_345, **more: Any) -> SourceStatus:
    known: dict[str, Any] = {
        "length": 20_000, "in_work": 40, "delivered": 1_000, "consumers": 2,
        "oldest_in_work_s": 75.0, "oldest_waiting_s": 12.0, "dead_letters": 1_234_567, "parked": 77,
    }  # fmt: skip
    return SourceStatus(name=name, kind="stream", waiting=waiting, **(known | more))


QUEUE = SourceStatus(name="arq:queue", kind="queue", waiting=3, later=70_000)


def overview(*streams: SourceStatus, at: float = 1000.0) -> Overview:
    groups = [
        ErrorGroup(
            f"0000000{n}", "order.placed", "retries", f"ValueError: no {n} [/red] {LONG}", 900 - n
        )
        for n in range(9)
    ]
    return Overview(
        at=at,
        status=Status(
            redis="127.0.0.1:6379/0",
            server="valkey 9.1.2",
            sources=(*(streams or (stream("orders"),)), QUEUE),
        ),
        workers=tuple(Worker(f"host-{n}", 10, 2, 0.5) for n in range(8)),
        jobs=16,
        in_flight=tuple(
            InFlight("orders", f"17000000000{n:02}-0", "host-1", 100.0 - n, 2) for n in range(50)
        ),
        later=Later(
            70_000, 1_000, 600, 300, 100,
            tuple(Due("message", "orders", f"18000000000{n:02}-0", n) for n in range(50)),
        ),
        dead=(DeadLetterSummary("orders", 1_234_567, "1-1", 1_000, tuple(groups)),),
    )  # fmt: skip


def draw(view: View, width: int, height: int) -> list[str]:
    """Draw the view as its screen does; return the lines."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(width=width, height=height, record=True, file=nowhere)
        console.print(view)
        return console.export_text().splitlines()


def view_of(*samples: Overview) -> View:
    view = View("127.0.0.1:6379/0", 2.0)
    for sample in samples:
        view.add(sample)
    return view


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_every_part_has_its_place_and_nothing_is_wrapped(width: int, height: int) -> None:
    lines = draw(view_of(overview()), width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for part in (
        "valkey 9.1.2 at 127.0.0.1:6379/0  every 2 s, Ctrl-C exits",
        "12,345",
        "Workers: 8",
        "host-0",
        "In flight: 56, oldest first; ",
        "1700000000000-0",
        "Later: 70,000 (600 messages to retry, 300 jobs to retry, 100 deferred of",
        "1800000000000-0",
        "Dead letters: 1,234,567 (groups: of the newest 1,000 of a queue)",
        "ValueError: no 0 [/red]",
    ):
        assert part in text, text
    (row,) = [line.split() for line in lines if line.startswith("orders ")]
    assert row[-1] == "1,234,567"
    (group,) = [line for line in lines if line.startswith("  900")]
    assert "00000000  orders" in group
    assert group.rstrip().endswith("…")


def test_a_wide_screen_says_more_than_a_narrow_one() -> None:
    narrow, wide = ("\n".join(draw(view_of(overview()), *size)) for size in SIZES)
    for more in ("parked", "reason", "order.placed"):
        assert more in wide
        assert more not in narrow
    beside = next(line for line in wide.splitlines() if "Workers: 8" in line)
    assert "Later: 70,000" in beside


@pytest.mark.parametrize(("width", "height"), [*SIZES, (40, 8), (20, 3), (300, 120)])
def test_too_many_streams_leave_room_for_the_rest_and_the_busiest_are_shown(
    width: int, height: int
) -> None:
    streams = [stream(f"stream-{n}", waiting=n) for n in range(90)]
    lines = draw(view_of(overview(*streams)), width, height)
    assert max(map(len, lines)) <= width
    if height < SIZES[0][1]:
        return  # too small for all of it, and no error
    assert len(lines) <= height
    text = "\n".join(lines)
    for part in ("arq:queue (jobs)", "host-0", "1700000000000-0", "1800000000000-0", "00000000"):
        assert part in text
    assert "stream-89 " in text
    assert ("stream-0 " in text) == (height == 120)
    assert (" shown)" in text) == (height < 120)


def test_nothing_at_all_takes_few_lines() -> None:
    empty = replace(
        overview(), workers=(), jobs=0, in_flight=(), later=Later(0, 0, 0, 0, 0, ()),
        dead=(DeadLetterSummary("orders", 0, "", 0, ()),),
    )  # fmt: skip
    text = "\n".join(draw(view_of(empty), 80, 24))
    for part in ("Workers: 0 ", "Later: 0 ", "Dead letters: 0 "):
        assert part in text
    assert "shown" not in text.partition("Later")[2]
    assert "error id" not in text


def test_without_streams_the_title_says_that_only_workers_with_jobs_are_seen() -> None:
    found = overview()
    jobs_only = replace(found, status=replace(found.status, sources=(QUEUE,)))
    assert "Workers that have jobs: 8" in "\n".join(draw(view_of(jobs_only), 80, 24))


def test_content_of_redis_cannot_control_the_terminal() -> None:
    nasty = "\x1b]0;title\x07\n\x9b31m\u202e\udcff"
    group = ErrorGroup("0000000f", nasty, "retries", nasty, 1)
    found = replace(
        overview(),
        workers=(Worker(nasty, 1, 0, 0.0),),
        in_flight=(InFlight(nasty, nasty, nasty, 1.0, 1),),
        dead=(DeadLetterSummary("orders", 1, "1-1", 1, (group,)),),
    )
    text = "".join(draw(view_of(found), 160, 50))
    assert text.isprintable()
    assert r"\x1b]0;title\x07 \x9b31m\u202e\udcff" in text


def test_the_first_pauses_are_shown_and_the_others_counted() -> None:
    pauses = [Pause("event", f"type-{n}", "ana@host", "no stock", time.time()) for n in range(5)]
    found = overview()
    paused = replace(found, status=replace(found.status, pauses=tuple(pauses)))
    lines = draw(view_of(paused), 80, 24)
    assert [line.split(" for ")[0] for line in lines[1:4]] == [
        f"paused: event type-{n}" for n in range(3)
    ]
    assert lines[3].endswith("by ana@host: no stock")
    assert lines[4] == "paused: 2 more"
    assert len(lines) <= 24


def test_rates_and_sparklines_come_from_the_samples() -> None:
    samples = [
        overview(stream("orders", waiting=lag, delivered=delivered, in_work=0), at=1000.0 + 2 * n)
        for n, (lag, delivered) in enumerate([(0, None), (0, 0), (800, 200), (400, 800)])
    ]
    (row,) = [line for line in draw(view_of(*samples), 160, 50) if line.startswith("orders")]
    assert row.split()[1:5] == ["400", "▁▁█▅", "300", "200"]
    # Redis 6.2 counts no deliveries, and the lag only so far.
    unknown = overview(stream("orders", waiting=2_000, delivered=None))
    (row,) = [line for line in draw(view_of(unknown), 80, 24) if line.startswith("orders")]
    assert row.split()[1:5] == ["2,000+", "█", "-", "-"]
    # A server that was restarted without its data counts from zero.
    (row,) = [
        line
        for line in draw(view_of(samples[-1], replace(samples[1], at=1010.0)), 80, 24)
        if line.startswith("orders")
    ]
    assert row.split()[1:5] == ["0", "█▁", "-", "-"]


def test_a_sparkline_shows_the_newest_and_distinguishes_zero_from_little() -> None:
    assert spark([], 3) == "   "
    assert spark([0, 0], 3) == " ▁▁"
    assert spark([9, 0, 1, 500, 1000], 4) == "▁▂▅█"


def test_lines_are_dealt_out_in_turn() -> None:
    assert share([5, 1, 9], 8) == [4, 1, 3]
    assert share([2, 1, 0], 8) == [2, 1, 0]
    assert share([2, 1], 0) == share([2, 1], -4) == [0, 0]


async def test_an_outage_is_shown_above_the_last_sample_until_redis_is_back() -> None:
    view = View("127.0.0.1:6379/0", 2.0)

    def away() -> Awaitable[Overview]:
        raise RedisConnectionError("Connection refused")

    async def back() -> Overview:
        return overview(at=time.time())

    await step(view, away)
    assert draw(view, 80, 24) == [
        "127.0.0.1:6379/0",
        "Redis cannot be read; retrying",
        "Connection refused",
    ]
    await step(view, back)
    assert "Redis cannot be read" not in "".join(draw(view, 80, 24))
    await step(view, away)
    text = "\n".join(draw(view, 80, 24))
    assert "Redis cannot be read; retrying; last read 0." in text
    assert "Workers: 8" in text


async def test_a_cancellation_that_a_client_swallows_ends_it_all_the_same() -> None:
    view, begun = View("127.0.0.1:6379/0", 60.0), asyncio.Event()

    async def swallows() -> Overview:
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return overview()

    following = asyncio.create_task(repeat(view, swallows, 60.0))
    await begun.wait()
    following.cancel()
    async with asyncio.timeout(10):
        await asyncio.gather(following, return_exceptions=True)
    assert view._samples


class Terminal:
    """The command in a terminal of its own."""

    def __init__(self, project: Project, *arguments: str, width: int, height: int) -> None:
        self.pid, self._fd = pty.fork()
        if not self.pid:
            environment = project.environment({"TERM": "xterm-256color"})
            for name in ("COLUMNS", "LINES", "NO_COLOR"):
                environment.pop(name, None)
            os.chdir(project.folder)
            # Ours may be ignored, as in the background of a shell, and that is inherited.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.execve(sys.executable, [sys.executable, "-m", "tinyworker", *arguments], environment)
        self.running = True
        self.resize(width, height)
        self.output = ""

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    @property
    def screen(self) -> str:
        """The last whole screen; each begins at the top left."""
        return self.output.split("\x1b[H")[-2] if "\x1b[H" in self.output else ""

    def read(self) -> bool:
        """Read what there is; false at the end."""
        if select.select([self._fd], [], [], 0.05)[0]:
            try:
                self.output += os.read(self._fd, 65_536).decode(errors="replace")
            except OSError:  # Linux reports so that the other side is closed
                return False
        return True

    def until(self, text: str, *, gone: bool = False) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while (text in self.screen) == gone:
            self.read()
            if time.monotonic() > deadline:
                pytest.fail(
                    f"{text!r} {'stays' if gone else 'does not come'}: {self.output[-2000:]!r}"
                )

    def ended(self) -> int:
        deadline = time.monotonic() + PATIENCE_S
        while self.read():
            if time.monotonic() > deadline:
                pytest.fail(f"it does not end: {self.output[-2000:]!r}")
        _, status = os.waitpid(self.pid, 0)
        self.running = False
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        os.close(self._fd)
        if self.running:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


@pytest.fixture
def terminal(own_project: Project) -> Iterator[Terminal]:
    made = Terminal(own_project, "status", "--watch", "--every", "0.2", width=80, height=24)
    yield made
    made.close()


def test_it_follows_survives_an_outage_and_a_resize_and_ends_with_ctrl_c(
    own_project: Project, terminal: Terminal
) -> None:
    terminal.until("Workers: 0")
    own_project.redis.xadd("orders:dlq", {"type": "order", "_error_type": "E", "_error": "why"})
    terminal.until("E: why")
    own_project.server.kill()
    terminal.until("Redis cannot be read; retrying; last read ")
    assert "E: why" in terminal.screen
    own_project.server.start()
    terminal.until("Redis cannot be read", gone=True)
    assert "parked" not in terminal.screen
    terminal.resize(160, 50)
    terminal.until("parked")
    terminal.type(b"\x03")
    assert terminal.ended() == 0
    # Back to the screen as it was, with the cursor.
    assert "\x1b[?1049l" in terminal.output.rpartition("Dead letters")[2]
    assert "\x1b[?25h" in terminal.output.rpartition("Dead letters")[2]
    assert "Traceback" not in terminal.output
    assert "Aborted" not in terminal.output


def test_without_redis_it_waits_for_it(own_project: Project) -> None:
    own_project.server.kill()
    terminal = Terminal(own_project, "status", "--watch", width=80, height=24)
    try:
        terminal.until("Redis cannot be read; retrying")
        own_project.server.start()
        terminal.until("Workers: 0")
        os.kill(terminal.pid, signal.SIGINT)
        assert terminal.ended() == 0
    finally:
        terminal.close()
