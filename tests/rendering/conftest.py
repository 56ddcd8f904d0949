"""Projects with manifests, for the tests of manifests and of limits."""

from pathlib import Path

import pytest
from pytest_copier.plugin import CopierFixture
from rendering_support import KUBERNETES_ANSWERS, compile_base


@pytest.fixture(scope="module")
def kubernetes_projects(
    copier_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("kubernetes")
    with pytest.MonkeyPatch.context() as patch:
        renderer = CopierFixture(template=copier_template, defaults={}, monkeypatch=patch)
        projects = {
            name: renderer.copy(folder / name, **KUBERNETES_ANSWERS[name]).path
            for name in KUBERNETES_ANSWERS
        }
    for project in projects.values():
        compile_base(project)
    return projects


@pytest.fixture(params=KUBERNETES_ANSWERS)
def kubernetes_project(
    request: pytest.FixtureRequest, kubernetes_projects: dict[str, Path]
) -> Path:
    return kubernetes_projects[request.param]
