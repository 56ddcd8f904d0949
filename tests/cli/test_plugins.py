"""Commands beyond the core come from entry points, as far as their modules are installed."""

import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner
from processkit import Project
from workerbase.cli import make_cli

CORE = ["dlq", "enqueue", "health", "run", "status"]
FEATURES = [
    "base",
    "chaos",
    "console",
    "demo",
    "dev",
    "find",
    "groups",
    "jobs",
    "pause",
    "publish",
    "resume",
    "schedule",
    "workers",
]


@pytest.fixture
def tiny() -> click.Group:
    """The command line of the tiny project, which declares entry points."""
    return make_cli("tinyworker.worker:WorkerSettings")


@pytest.fixture
def bare() -> click.Group:
    """The command line of a project that declares none."""
    return make_cli("bareworker.worker:WorkerSettings")


def commands(cli: click.Group) -> list[str]:
    return cli.list_commands(click.Context(cli))


def output(cli: click.Group, *arguments: str) -> str:
    return CliRunner().invoke(cli, arguments).output


def test_a_project_has_the_commands_of_the_core_and_of_its_features(
    tiny: click.Group, bare: click.Group
) -> None:
    assert commands(bare) == CORE
    assert commands(tiny) == sorted(CORE + FEATURES)
    for name in commands(tiny):
        assert output(tiny, name, "--help").startswith(f"Usage: main {name} ")


@pytest.mark.parametrize("name", ["no-package", "no-module"])
def test_a_command_whose_module_is_not_installed_does_not_exist(
    tiny: click.Group, name: str
) -> None:
    assert name not in output(tiny, "--help")
    found = CliRunner().invoke(tiny, [name])
    assert found.exit_code == 2
    assert f"No such command '{name}'" in found.output


def test_a_command_of_a_feature_replaces_the_one_of_the_core(
    tiny: click.Group, bare: click.Group
) -> None:
    assert "--watch" not in output(bare, "status", "--help")
    assert "--watch" in output(tiny, "status", "--help")
    assert output(tiny, "--help").count("status") == 1


def test_a_process_finds_the_entry_points_too(project: Project) -> None:
    assert "--watch" in project.run("status", "--help").stdout
    assert project.run("no-package").returncode == 2
    shown = project.run("base", "status").stdout
    assert shown.startswith("base ")


def test_a_command_imports_no_other_feature(project: Project) -> None:
    script = (
        "import json, sys\n"
        "from tinyworker.__main__ import main\n"
        "main(['dlq', '--help'], standalone_mode=False)\n"
        "print(json.dumps([*sys.modules]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=project.folder, env=project.environment({}), capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert "workerbase.cli.dlq" in loaded
    features = ("console", "devtools", "jobs", "streams", "telemetry", "testing")
    rooms = {name.split(".")[1] for name in loaded if name.startswith("workerbase.")}
    assert not rooms.intersection(features)
