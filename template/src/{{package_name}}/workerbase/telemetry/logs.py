"""Logs of the base, arq and the project: JSON lines, or readable ones in a terminal.

Loggers may be the standard library's or structlog's. Each line of a run carries the message or
job, its attempt and its trace; secrets and payloads are hidden (see `redact`).
"""

import asyncio
import logging
import os
import sys
import weakref
from collections.abc import Collection, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TextIO, TypeAlias

import structlog
from structlog.contextvars import clear_contextvars, merge_contextvars
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from ..broker import trace_context
from ..config import WorkerConfig
from ..engine import redact
from ..engine.text import logged_traceback, printable
from ..monitor import Monitor, Work

_STARTED, _ENDED = "%6.2fs → %s(%s)%s", "%6.2fs ← %s ● %s"
"""Log messages of a job in arq and in the base; the third value is its arguments, or result."""
_PAYLOAD_AT = 2

_Bound: TypeAlias = "tuple[dict[str, object], weakref.ref[asyncio.Task[object]] | None]"
_NOTHING: _Bound = ({}, None)
_bound: ContextVar[_Bound] = ContextVar("worker_log_context", default=_NOTHING)
"""The fields of the running work, and once it has ended, the only task they still apply to."""

_FIRST = ("timestamp", "level", "logger", "message")


def configure(
    config: WorkerConfig, *, stream: TextIO | None = None, shown: Collection[str] = ()
) -> None:
    """Write all log records to ``stream``, standard error by default.

    Args:
        config: its ``log_level`` is the lowest level that is written.
        stream: a terminal gets readable lines, anything else JSON.
        shown: names of fields that are hidden by default and harmless in this project.
    """
    output: TextIO = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(output)
    handler.setFormatter(_formatter(frozenset(map(str.lower, shown)), readable=output.isatty()))
    logging.basicConfig(level=config.log_level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            _hide_arguments,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


class LogContext(Monitor):
    """Adds the message or job to each line of its run.

    These are the lines of the handler or task and of what it starts, and afterwards those in
    which the base reports the outcome.
    """

    @contextmanager
    def around(self, work: Work) -> Generator[None]:
        """Bind the fields of ``work``, and remove those of a former run."""
        clear_contextvars()
        described = _described(work)
        _bound.set((described, None))
        try:
            yield
        finally:
            clear_contextvars()
            # The task that ran it goes on to settle it, or to start another: what that begins
            # inherits this variable, and is another job's.
            task = _current_task()
            _bound.set(_NOTHING if task is None else (described, weakref.ref(task)))


def _described(work: Work) -> dict[str, object]:
    message = work.kind == "message"
    found: dict[str, object] = {
        "message_id" if message else "job_id": work.id,
        "event_type" if message else "function": work.name,
        "stream" if message else "queue": work.source,
        "attempt": work.attempt,
    }
    if trace := trace_context.traceparent() or work.trace:
        found["trace_id"] = trace[3:35]
    return found


def _formatter(shown: Collection[str], *, readable: bool) -> logging.Formatter:
    def hide(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return redact.fields(event, shown)

    ending: list[Processor]
    if readable:
        colors = "NO_COLOR" not in os.environ
        plain = structlog.dev.plain_traceback
        ending = [
            structlog.processors.TimeStamper("%H:%M:%S", utc=False),
            structlog.processors.ExceptionRenderer(_traceback),
            hide,
            _printable,
            structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain),
        ]
    else:
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        ending = [
            structlog.processors.TimeStamper("iso"),
            structlog.processors.ExceptionRenderer(tracebacks),
            structlog.processors.EventRenamer("message"),
            hide,
            _in_order,
            structlog.processors.JSONRenderer(),
        ]
    return _Formatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder()],
        processors=[
            merge_contextvars,
            _add_work,
            _add_trace,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *ending,
        ],
    )


def _traceback(exc_info: ExcInfo) -> str:
    return logged_traceback(exc_info[1])


def _printable(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {
        name: printable(value, one_line=name != "exception") if isinstance(value, str) else value
        for name, value in event.items()
    }


def _hide_arguments(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    if arguments := event.get("positional_args"):
        event["positional_args"] = tuple(map(redact.argument, arguments))
    return event


def _add_work(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    described, only_in = _bound.get()
    if described and (only_in is None or only_in() is _current_task()):
        return {**described, **event}
    return event


def _current_task() -> "asyncio.Task[object] | None":
    try:
        return asyncio.current_task()
    except RuntimeError:  # a thread without an event loop
        return None


def _in_order(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {name: event[name] for name in _FIRST if name in event} | dict(event)


def _add_trace(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    if trace := trace_context.traceparent():
        event["trace_id"], event["span_id"] = trace[3:35], trace[36:52]
    return event


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Hides payloads among the arguments of a message before they become text."""

    def format(self, record: logging.LogRecord) -> str:
        record = redact.record(record)
        arguments = record.args
        if record.msg in (_STARTED, _ENDED) and isinstance(arguments, tuple):
            shown, hidden = arguments[:_PAYLOAD_AT], redact.HIDDEN if arguments[_PAYLOAD_AT] else ""
            record.args = (*shown, hidden, *arguments[_PAYLOAD_AT + 1 :])
        return super().format(record)
