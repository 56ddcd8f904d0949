"""Sizes in the documentation are those of the code, and files have names of their own."""

import runpy
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
SIZES = runpy.run_path(str(ROOT / "tools" / "sizes.py"))


def test_the_documentation_shows_the_sizes_of_the_code() -> None:
    assert SIZES["main"](["--check"]) == 0


def test_comments_docstrings_and_blank_lines_do_not_count(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text('"""Says what it is.\n\nAt length.\n"""\n\n# why\nx = (\n    1,\n)\n')
    script = tmp_path / "script.lua"
    script.write_text("-- what it does\n\nreturn 1\n")

    assert SIZES["code_lines"](module) == 3
    assert SIZES["code_lines"](script) == 1


def test_test_files_have_names_of_their_own() -> None:
    # pytest imports them by these names alone, and refuses the second of two.
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
