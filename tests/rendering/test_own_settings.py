"""A project adds settings of each kind, and its own tests go on passing."""

import re
from pathlib import Path

import pytest
from pytest_copier.plugin import CopierFixture
from rendering_support import FEATURES, compile_base, run_tests

FIELDS = """
    api_key: str
    hosts: list[str] = []
    shares: dict[str, int] = Field(default_factory=lambda: {"eu": 1})
    database_url: str = Field(default="sqlite://", validation_alias="DATABASE_URL")
"""
EXAMPLES = """
WORKER_API_KEY=example
#WORKER_HOSTS=
#WORKER_SHARES={"eu": 1}
#DATABASE_URL=sqlite://
"""


def report_of(project: Path, *tests: str) -> str:
    """Run the project's tests that need no server, where nothing else is set; return the report."""
    return run_tests(project, "-m", "not integration", *tests).stdout


@pytest.mark.parametrize("features", [FEATURES, ()], ids=["all", "none"])
def test_the_generated_tests_pass_with_settings_of_each_kind(
    copier: CopierFixture, tmp_path: Path, features: tuple[str, ...]
) -> None:
    project = copier.copy(tmp_path / "project", features=list(features)).path
    settings = project / "src" / "my_worker" / "settings.py"
    text = settings.read_text("utf-8")
    text = text.replace("\nfrom .workerbase", "\nfrom pydantic import Field\nfrom .workerbase", 1)
    settings.write_text(text + FIELDS, "utf-8")
    example = project / ".env.example"
    before = example.read_text("utf-8")
    compile_base(project)

    example.write_text(before + EXAMPLES, "utf-8")
    report = report_of(project)
    assert re.search(r"^\d+ passed", report, re.MULTILINE), report
    assert "failed" not in report

    example.write_text(before + EXAMPLES.replace("sqlite", "mysql"), "utf-8")
    assert "DATABASE_URL" in report_of(project, "tests/test_project.py")
    example.write_text(before + EXAMPLES.replace("#WORKER_HOSTS=\n", ""), "utf-8")
    assert "WORKER_HOSTS" in report_of(project, "tests/test_project.py")
