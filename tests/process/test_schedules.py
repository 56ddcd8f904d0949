"""What can never run is refused when it is defined."""

import functools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from arq import cron
from workerbase.base import BaseArqWorkerSettings
from workerbase.errors import RegistrationError, SettingsError
from workerbase.task_utils import task
from workerbase.types import Ctx


@task()
async def report(ctx: Ctx) -> None: ...


def define(**members: Any) -> type[Any]:
    return type("Settings", (BaseArqWorkerSettings,), {"functions": [report], **members})


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"hour": 24}, "hour is 24, not from 0 to 23"),
        ({"minute": {0, 60}}, "minute is 60, not from 0 to 59"),
        ({"second": -1}, "second is -1, not from 0 to 59"),
        ({"month": 0}, "month is 0, not from 1 to 12"),
        ({"month": 2, "day": 30}, r"no month among \[2\] has a day 30"),
        ({"month": {4, 6}, "day": 31}, r"no month among \[4, 6\] has a day 31"),
        ({"weekday": {"mon", "wed"}}, "weekday is '(mon|wed)', not from 0 to 6"),
        ({"weekday": "someday"}, "weekday is 'someday', not from 0 to 6, or one of mon, tues"),
        ({"minute": set()}, "minute is empty, so it would never come"),
        ({"hour": "3"}, "hour is '3', not from 0 to 23"),
    ],
)
def test_a_schedule_that_never_comes_is_refused(schedule: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=f"cron:report: {message}"):
        define(cron_jobs=[report.cron(**schedule)])


@pytest.mark.parametrize(
    "schedule",
    [
        {},
        {"month": 2, "day": 29, "hour": 1},
        {"day": 31},
        {"weekday": "mon", "hour": {9, 17}, "minute": 0},
        {"weekday": {0, 2}, "second": [0, 30]},
    ],
)
def test_a_schedule_that_comes_is_accepted(schedule: dict[str, Any]) -> None:
    assert len(define(cron_jobs=[report.cron(**schedule)]).cron_jobs) == 1


@pytest.mark.parametrize(
    ("cron_jobs", "message"),
    [
        ((report,), "is not a cron job; write some_task.cron"),
        (report.cron(hour=1), "must be a list or a tuple; is a comma missing"),
        ([report.cron(hour=1), report.cron(hour=2)], "two are named 'cron:report'"),
        (iter([]), "must be a list or a tuple"),
    ],
)
def test_what_is_not_a_list_of_cron_jobs_is_refused(cron_jobs: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        define(cron_jobs=cron_jobs)


def test_a_generator_of_functions_is_refused() -> None:
    with pytest.raises(SettingsError, match="functions must be a list or a tuple"):
        define(functions=(one for one in [report]))


async def _yields(ctx: Ctx) -> AsyncIterator[int]:
    yield 1


async def _is_awaitable(ctx: Ctx) -> None: ...


def test_a_cron_job_whose_function_requires_arguments_is_refused() -> None:
    for job in (task()(_two).cron(hour=6), cron(_two, hour=6)):
        with pytest.raises(SettingsError, match="_two is called without arguments"):
            define(cron_jobs=[job])


@pytest.mark.parametrize("lifespan", [_yields, _is_awaitable, 7])
def test_a_lifespan_that_is_not_a_context_manager_is_refused(lifespan: Any) -> None:
    with pytest.raises(SettingsError, match=r"Settings.lifespan (yields|must return)"):
        define(lifespan=lifespan)


def _sync(ctx: Ctx) -> None: ...


async def _without_context() -> None: ...


async def _two(ctx: Ctx, number: int) -> None: ...


@pytest.mark.parametrize(
    "function", [_sync, _yields, _without_context, functools.partial(_two, number=1)]
)
def test_what_cannot_be_a_task_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(RegistrationError, match="write async def"):
        task()(function)


@pytest.mark.parametrize(
    "options",
    [{"max_retries": 0}, {"max_retries": "3"}, {"max_retries": True}, {"backoff": -1.0}],
)
def test_a_limit_of_a_task_that_cannot_be_kept_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(RegistrationError, match="task _two: "):
        task(**options)(_two)
