"""Checks cron jobs when they are defined: arq searches for a time that never comes without end."""

from collections.abc import Iterable, Sequence
from typing import Any, cast

from arq.cron import CronJob

from ..errors import SettingsError
from .task import fits

_RANGES = {
    "month": (1, 12),
    "day": (1, 31),
    "weekday": (0, 6),
    "hour": (0, 23),
    "minute": (0, 59),
    "second": (0, 59),
    "microsecond": (0, 999_999),
}
_WEEKDAYS = ("mon", "tues", "wed", "thurs", "fri", "sat", "sun")
_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def check_cron_jobs(owner: str, jobs: object) -> tuple[CronJob, ...]:
    """Return the cron jobs of a settings class if every one of them can come.

    Raises:
        SettingsError: names the job and the field, and what would be right.
    """
    if jobs is None:
        return ()
    if not isinstance(jobs, list | tuple):
        msg = f"{owner}.cron_jobs must be a list or a tuple; is a comma missing in (…,)?"
        raise SettingsError(msg)
    names: set[str] = set()
    for job in cast("Sequence[object]", jobs):
        if not isinstance(job, CronJob):
            msg = f"{owner}.cron_jobs: {job!r} is not a cron job; write some_task.cron(hour=3)"
            raise SettingsError(msg)
        if job.name in names:
            msg = f"{owner}.cron_jobs: two are named {job.name!r}; give one a name=…"
            raise SettingsError(msg)
        names.add(job.name)
        if not fits(job.coroutine, (), {}):
            msg = (
                f"{owner}.cron_jobs: {job.name} is called without arguments, which its function "
                "requires; give them defaults, or schedule a task that takes none"
            )
            raise SettingsError(msg)
        _check(f"{owner}.cron_jobs: {job.name}", job)
    return tuple(cast("Sequence[CronJob]", jobs))


def _check(where: str, job: CronJob) -> None:
    for name, (lowest, highest) in _RANGES.items():
        for value in _values(getattr(job, name)):
            ok = isinstance(value, int) and lowest <= value <= highest
            # arq understands the name of one weekday, but not of several.
            one_name = name == "weekday" and value == job.weekday and value in _WEEKDAYS
            if not ok and not one_name:
                words = f", or one of {', '.join(_WEEKDAYS)}" if name == "weekday" else ""
                msg = f"{where}: {name} is {value!r}, not from {lowest} to {highest}{words}"
                raise SettingsError(msg)
        if getattr(job, name) is not None and not list(_values(getattr(job, name))):
            msg = f"{where}: {name} is empty, so it would never come"
            raise SettingsError(msg)
    months, days = list(_values(job.month)), list(_values(job.day))
    if days and min(days) > max(_DAYS[month - 1] for month in months or range(1, 13)):
        msg = f"{where}: no month among {months} has a day {min(days)}, so it would never come"
        raise SettingsError(msg)


def _values(option: Any) -> Iterable[Any]:
    if option is None:
        return ()
    if isinstance(option, set | list | tuple):
        return cast("Iterable[Any]", option)
    return (option,)
