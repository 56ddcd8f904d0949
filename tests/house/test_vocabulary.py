"""Private words do not come back, and the check for them works."""

import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CHECK: dict[str, Any] = runpy.run_path(str(ROOT / "tools" / "vocabulary.py"))
RULES = (*CHECK["NAMES"], *CHECK["PHRASES"])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.example)
def test_each_word_is_found(rule: Any) -> None:
    (found,) = CHECK["check_text"]("some.py", f"# fine\n{rule.example}\n", [rule])

    assert found.line == 2
    assert rule.instead in str(found)


FINE = ("so many that it fails", "It is no longer held", "There is no file")


@pytest.mark.parametrize("text", FINE)
def test_plain_english_is_left_alone(text: str) -> None:
    assert list(CHECK["check_text"]("some.py", text)) == []


def test_no_file_has_such_a_word() -> None:
    assert CHECK["main"]() == 0
