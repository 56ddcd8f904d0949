"""Each row of the table of guarantees names the tests that hold it, in comments of the template."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"\{# (tests/\S+\.py)::(test_\w+) #\}")


def rows() -> list[str]:
    """Return the rows of the table, without its head."""
    page = (ROOT / "template" / "README.md.jinja").read_text("utf-8")
    section = page.partition("\n## Guarantees\n")[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("| ")][2:]


def test_there_is_a_table() -> None:
    assert len(rows()) > 20


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[:50])
def test_each_guarantee_names_tests_that_exist(row: str) -> None:
    named = NAMED.findall(row)
    assert named, "append {# tests/…/test_….py::test_… #} to the row"
    for path, test in named:
        assert f"def {test}(" in (ROOT / path).read_text("utf-8"), f"{path} has no {test}"
