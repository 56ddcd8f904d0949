# Owned by arq-worker-template: `copier update` overwrites edits; write the new names instead.
"""Former names of settings: taken until a stated release, with a warning that says what to write.

A release that renames a setting adds a line to `SETTINGS`. The old name then goes on to work as a
variable, as a default in the project's `WorkerConfig`, as an attribute of its worker settings, and
in code that makes or reads a configuration.
"""

import logging
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from dotenv import dotenv_values

from .errors import ConfigError

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Renamed(NamedTuple):
    """What a setting is called now, and the release that takes only that."""

    name: str
    until: str


SETTINGS: dict[str, Renamed] = {}
"""By their former names."""

_told: set[str] = set()


def tell(old: str, spell: Callable[[str], str]) -> str:
    """Warn once of a former name, which ``spell`` writes as the user did; return the new one.

    It is logged, not warned of, so that the suite of a project that was just updated passes.
    """
    new, until = SETTINGS[old]
    message = f"{spell(old)} is {spell(new)} now; the old name works until release {until}"
    if message not in _told:
        _told.add(message)
        logger.warning("%s", message)
    return new


def today(given: Mapping[str, T], spell: Callable[[str], str]) -> dict[str, T]:
    """Return settings under the names that they have now.

    Raises:
        ConfigError: both names of a setting are given, with different values.
    """
    found = dict(given)
    for old in SETTINGS.keys() & found.keys():
        new, value = tell(old, spell), found.pop(old)
        if found.setdefault(new, value) != value:
            msg = f"{spell(old)} is the former name of {spell(new)}; set only the latter"
            raise ConfigError(msg)
    return found


def from_environment(prefix: str) -> dict[str, str]:
    """Return what variables with former names say, in the environment or ``.env``.

    Raises:
        ConfigError: both variables of a setting are there, with different values.
    """
    if not SETTINGS:
        return {}
    variables = {**dotenv_values(".env"), **os.environ}
    given = {
        name.upper().removeprefix(prefix.upper()).lower(): value
        for name, value in variables.items()
        if value is not None and name.upper().startswith(prefix.upper())
    }
    taken = today(given, lambda name: prefix + name.upper())
    return {new: taken[new] for old, (new, _) in SETTINGS.items() if old in given}
