"""What projects import from the base stays importable, from 1.0.0rc1 on."""

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
from updates import public_imports
from updates.releases import BASE, HEAD, ROOT, git, releases

RELEASES = releases()
LISTED = public_imports.read(public_imports.LIST.read_text("utf-8"))

ALL = "features=[streams, devtools, console, leased_jobs, telemetry, kubernetes]"


@pytest.fixture(scope="module")
def imported(rendered: Callable[..., Path]) -> set[str]:
    """All that the projects and the guide for adopting import."""
    projects = (rendered(HEAD), rendered(HEAD, ALL), rendered(HEAD, "features=[]"))
    guide = (ROOT / "docs" / "adopting.md").read_text("utf-8")
    return {*public_imports.of_blocks(guide)}.union(*map(public_imports.imported_by, projects))


def test_the_list_has_all_that_projects_import(imported: set[str]) -> None:
    assert imported - LISTED == set(), "add these lines to tests/updates/public_imports.txt"
    if not RELEASES:
        # Until the first release nothing has to stay.
        assert LISTED - imported == set()


@pytest.mark.parametrize("line", sorted(LISTED))
def test_each_line_of_the_list_is_valid(line: str) -> None:
    module, _, name = line.partition(": ")
    if not name:
        assert (ROOT / BASE.parent / module).is_file()
        return
    found = importlib.import_module(module)
    if not hasattr(found, name):
        importlib.import_module(f"{module}.{name}")


def test_the_list_has_all_lines_of_each_release() -> None:
    path = public_imports.LIST.relative_to(ROOT).as_posix()
    for version, commit in RELEASES.items():
        before = public_imports.read(git(ROOT, "show", f"{commit}:{path}"))
        assert before - LISTED == set(), f"projects of {version} import these"


def test_the_imports_of_code_documents_and_settings_are_found() -> None:
    code = (
        "from .workerbase import task\nfrom shop.workerbase.streams import Event, Streams as S\n"
        "from os import path\nif path:\n    from ..shop.workerbase.broker import codec\n"
    )
    names = {
        "workerbase: task",
        "workerbase.streams: Event",
        "workerbase.streams: Streams",
        "workerbase.broker: codec",
    }

    assert {*public_imports.of_code(code)} == names
    assert {*public_imports.of_blocks(f"# A\n\n```python\n{code}```\n")} == names
    text = (
        'base = "shop.workerbase.testing.commands:base"\nCOPY src/shop/workerbase/probe.py /app\n'
    )
    assert {*public_imports.of_text(text)} == {
        "workerbase.testing.commands: base",
        "workerbase/probe.py",
    }
