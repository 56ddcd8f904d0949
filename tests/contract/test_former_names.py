"""Names of codex-platform 0.1.0, where the design comes from, are refused with the new ones."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from arq.connections import RedisSettings
from processkit import BASE
from workerbase import BaseArqService, BaseArqWorkerSettings
from workerbase.delivery import ArqAdapter
from workerbase.errors import ConfigError, SettingsError
from workerbase.streams import EventPublisher

NAMES = [
    ("workerbase", "arq_task", "@task"),
    ("workerbase", "HEALTH_FILE", "WORKER_HEALTH_FILE"),
    ("workerbase", "BaseWorkerConfig", "use WorkerConfig"),
    ("workerbase", "DependencyFunction", "lifespan"),
    ("workerbase.base", "HEALTH_FILE", "WORKER_HEALTH_FILE"),
    ("workerbase.config", "BaseWorkerConfig", "use WorkerConfig"),
    ("workerbase.task_utils", "arq_task", "@task"),
    ("workerbase.types", "DependencyFunction", "lifespan"),
    ("workerbase.streams", "StreamRouter", "use EventRouter"),
    ("workerbase.streams", "StreamProducer", "use EventPublisher"),
    ("workerbase.streams", "StreamProcessor", "Streams(router)"),
]


@pytest.mark.parametrize(("module", "name", "instead"), NAMES)
def test_an_import_of_a_former_name_says_the_new_one(module: str, name: str, instead: str) -> None:
    with pytest.raises(ImportError) as caught:
        exec(f"from {module} import {name}", {})
    message = str(caught.value)
    assert message.startswith(f"{name} is a name of codex-platform: ")
    assert instead in message


@pytest.mark.parametrize("module", sorted({module for module, *_ in NAMES}))
def test_any_other_name_is_missing_as_it_is_everywhere(module: str) -> None:
    assert not hasattr(importlib.import_module(module), "xyzzy")
    with pytest.raises(ImportError, match="cannot import name 'xyzzy'"):
        exec(f"from {module} import xyzzy", {})


def test_retry_delay_is_refused_with_the_setting_that_it_is_now() -> None:
    with pytest.raises(SettingsError, match=r"retry_delay is a name of .*WORKER_RETRY_BACKOFF"):
        type("Settings", (BaseArqWorkerSettings,), {"retry_delay": 10})


@pytest.mark.parametrize("kind", [BaseArqService, ArqAdapter, EventPublisher])
def test_a_client_for_redis_settings_of_arq_says_what_it_takes(kind: type) -> None:
    name = "ArqAdapter" if kind is BaseArqService else kind.__name__
    with pytest.raises(ConfigError, match=rf"^{name} is given a RedisSettings, not a WorkerCon"):
        kind(RedisSettings())


def test_type_checkers_find_a_name_that_does_not_exist(tmp_path: Path) -> None:
    (tmp_path / "use.py").write_text("from workerbase.task_utils import arq_task, task\n")
    mypy = [sys.executable, "-m", "mypy", "--config-file=", "use.py"]
    found = subprocess.run(
        mypy, cwd=tmp_path, env={"MYPYPATH": str(BASE)}, capture_output=True, text=True, check=False
    )
    assert 'has no attribute "arq_task"' in found.stdout
