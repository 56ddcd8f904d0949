"""What a project allows of its dependencies can be resolved, at the lower end and beyond arq's."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from pytest_copier.plugin import CopierFixture
from rendering_support import FEATURES, ROOT, tool


def locked(project: Path, *options: str) -> dict[str, Version]:
    tool("uv", "lock", "--quiet", "--python", "3.11", *options, cwd=project)
    packages = tomllib.loads((project / "uv.lock").read_text("utf-8"))["package"]
    return {package["name"]: Version(package["version"]) for package in packages}


@pytest.fixture
def project(copier: CopierFixture, tmp_path: Path) -> Path:
    return copier.copy(tmp_path / "project", features=list(FEATURES)).path


def test_the_lower_bounds_are_those_that_are_tested(project: Path) -> None:
    found = locked(project, "--resolution=lowest-direct")

    table = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))
    listed = [*table["project"]["dependencies"], *table["dependency-groups"]["dev"]]
    listed += [
        name for extra in table["project"]["optional-dependencies"].values() for name in extra
    ]
    for requirement in map(Requirement, listed):
        (lowest,) = [s.version for s in requirement.specifier if s.operator == ">="]
        assert found[requirement.name.lower()].release[:2] == (*Version(lowest).release, 0)[:2]
    # Earlier ones have no `CONTENT_TYPE_PLAIN_0_0_4`.
    assert found["prometheus-client"] >= Version("0.23")


def test_the_override_in_the_readme_brings_the_newest_redis_and_keeps_arq(project: Path) -> None:
    assert locked(project)["redis"] < Version("6")
    readme = (project / "README.md").read_text("utf-8")
    (override,) = re.findall(r"```toml\n(\[tool.uv\]\n.*?)```", readme, re.DOTALL)
    with (project / "pyproject.toml").open("a") as file:
        file.write(f"\n{override}")

    found = locked(project, "--upgrade-package=redis")

    assert Version("8") <= found["redis"] < Version("9")
    assert found["arq"] == Version("0.28")


@pytest.mark.parametrize("page", ["README.md", "docs/adopting.md", "template/README.md.jinja"])
def test_the_state_of_arq_is_said_where_one_decides(page: str) -> None:
    text = " ".join((ROOT / page).read_text("utf-8").split())
    assert "maintenance only" in text
    assert "https://github.com/python-arq/arq/issues/510" in text
