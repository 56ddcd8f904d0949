"""How settings are read: from the environment and ``.env``, with errors that name variables."""

import difflib
import io
import os
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, Union, get_args, get_origin

from dotenv import dotenv_values
from pydantic import AliasChoices, AliasPath, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from .errors import ConfigError

ENV_PREFIX = "WORKER_"
ENV_FILE = ".env"


def read_env_file() -> Mapping[str, str | None]:
    """Return the variables of ``.env``; there are none without the file.

    Raises:
        ConfigError: the file cannot be read, or is not UTF-8.
    """
    try:
        text = Path(ENV_FILE).read_text("utf-8-sig")
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError:
        text = "\0"  # UTF-16, too, may be valid UTF-8, but with zero bytes
    except OSError as exc:
        msg = f"cannot read {Path(ENV_FILE).absolute()}: {exc.strerror}"
        raise ConfigError(msg) from exc
    if "\0" in text:
        msg = f"{Path(ENV_FILE).absolute()} is not UTF-8: save it in this encoding"
        raise ConfigError(msg)
    return dotenv_values(stream=io.StringIO(text))


def variable(name: str) -> str | None:
    """Return one variable of the environment or of ``.env``; an empty one counts as unset.

    Raises:
        ConfigError: ``.env`` cannot be read.
    """
    return os.environ.get(name) or read_env_file().get(name) or None


def _is_sequence(annotation: object) -> bool:
    """Whether a value of this type is written as a list."""
    origin = get_origin(annotation) or annotation
    if origin in (Union, types.UnionType):
        return any(_is_sequence(choice) for choice in get_args(annotation))
    return origin in (list, tuple, set, frozenset)


class _Decoding(EnvSettingsSource):
    """Reads lists as ``a,b`` or as JSON; what is neither fails as a value of the wrong type."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        raw = NoDecode in field.metadata or not isinstance(value, str)
        if not raw and _is_sequence(field.annotation) and not value.lstrip().startswith("["):
            return [item.strip() for item in value.split(",")]
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


class _EnvFile(DotEnvSettingsSource, _Decoding):
    def __call__(self) -> dict[str, Any]:
        return EnvSettingsSource.__call__(self)  # not the variables of other programs


class Environment(BaseSettings):
    """Base of every group of settings.

    An empty variable counts as unset. A list is written as ``a,b`` or as JSON.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_file=ENV_FILE,
        env_file_encoding="utf-8-sig",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,
        validate_default=True,
    )

    def __init__(self, **values: Any) -> None:
        """Read the environment and ``.env``; ``values`` take precedence.

        Raises:
            ConfigError: one of ``values`` is not a setting.
            pydantic.ValidationError: a value is wrong.
        """
        fields = type(self).model_fields
        names = {*fields, *(key for field in fields.values() for key in _aliases(field))}
        for name in values:
            if not name.startswith("_") and name not in names:
                near = difflib.get_close_matches(name, sorted(names), 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                msg = f"{name} is not a setting of {type(self).__name__}{hint}"
                raise ConfigError(msg)
        super().__init__(**values)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Decode what the environment and ``.env`` hold."""
        del env_settings
        env_file = getattr(dotenv_settings, "env_file", None)
        file = _EnvFile(settings_cls, env_file=env_file)
        return init_settings, _Decoding(settings_cls), file, file_secret_settings

    @classmethod
    def load(cls) -> Self:
        """Read the environment and ``.env``.

        Raises:
            ConfigError: names every variable that is wrong; values are not repeated, because
                they may be secrets.
        """
        read_env_file()  # to say what is wrong with it
        try:
            return cls()
        except ValidationError as exc:
            lines = [
                f"  {cls._place(problem['loc'])}{problem['msg']}"
                for problem in exc.errors(include_url=False, include_input=False)
            ]
            raise ConfigError("the configuration is invalid:\n" + "\n".join(lines)) from None

    @classmethod
    def variables(cls) -> dict[str, str]:
        """Return the name of each setting's variable; a former name is not listed."""
        return {
            name: next(iter(_aliases(field)), _prefix(cls) + name).upper()
            for name, field in cls.model_fields.items()
        }

    @classmethod
    def _place(cls, loc: tuple[int | str, ...]) -> str:
        """Name the variable that an error is about, and the place in its value."""
        if not loc:
            return ""
        field, *rest = map(str, loc)
        names = {key: n for n, f in cls.model_fields.items() for key in (n, *_aliases(f))}
        name = cls.variables()[names[field]]
        delimiter = cls.model_config.get("env_nested_delimiter")
        while delimiter and rest and not rest[0].isdigit():
            name += f"{delimiter}{rest.pop(0)}".upper()
        return ": ".join([name, *([".".join(rest)] if rest else []), ""])

    @classmethod
    def unknown_variables(cls) -> list[str]:
        """Describe each variable with the prefix that is not a setting.

        Raises:
            ConfigError: ``.env`` cannot be read.
        """
        prefix = _prefix(cls)
        delimiter = str(cls.model_config.get("env_nested_delimiter") or "")
        known = {f"{prefix}DEV_SERVER"}  # for demo and tests, see `testing.redis_server`
        for group in (cls, *Environment.__subclasses__()):
            known.update(_prefix(group) + name.upper() for name in group.model_fields)
            known.update(a.upper() for f in group.model_fields.values() for a in _aliases(f))
        near = {name.removeprefix(prefix): name for name in known}
        found: list[str] = []
        for name in sorted({*os.environ, *read_env_file()}):
            whole = name.upper()
            outer = whole.partition(delimiter.upper())[0] if delimiter else whole
            if whole.startswith(prefix) and not {whole, outer} & known:
                matches = difflib.get_close_matches(whole.removeprefix(prefix), near, 1)
                hint = f"; did you mean {near[matches[0]]}?" if matches else ""
                found.append(f"{name} is not a setting{hint}")
        return found


def _prefix(group: type[Environment]) -> str:
    return str(group.model_config.get("env_prefix", "")).upper()


def _aliases(field: FieldInfo) -> list[str]:
    """Return the names under which a field is read instead of its own."""
    alias = field.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias] if alias else []
    return [str(c.path[0]) if isinstance(c, AliasPath) else c for c in choices]
