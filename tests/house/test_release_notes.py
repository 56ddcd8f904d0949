"""The notes of a release come from CHANGELOG.md, and what is wrong there is named."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT: dict[str, Any] = runpy.run_path(str(ROOT / "tools" / "release_notes.py"))

CHANGELOG = """# Changelog

What users notice.

## [Unreleased]

### Added

- Something.

## [1.1.0rc1] - 2026-12-01

A paragraph over
two lines.

### Added

- An item over
  two lines, with `code`.
- Another one:
  1. in parts

| a | table |
| --- | --- |

```console
## [9.9.9] - not a heading
one
two
```
After the code.

## [1.0.0] - 2026-11-25

- All of it.

## [0.9.0]

- Undated.

## [0.8.0] - 2026-11-01

### Added

## About versions

Not a version.

[1.0.0]: https://example.com/1.0.0
"""

NOTES = """A paragraph over two lines.

### Added

- An item over two lines, with `code`.
- Another one:
  1. in parts

| a | table |
| --- | --- |

```console
## [9.9.9] - not a heading
one
two
```
After the code.
"""


@pytest.fixture
def changelog(tmp_path: Path) -> Path:
    file = tmp_path / "CHANGELOG.md"
    file.write_text(CHANGELOG)
    return file


def run(changelog: Path, *arguments: str) -> int:
    return SCRIPT["main"]([*arguments, "--changelog", str(changelog)])


@pytest.mark.parametrize("tag", ["1.1.0rc1", "v1.1.0rc1"])
def test_it_prints_the_section_with_each_paragraph_in_a_line(
    changelog: Path, tag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(changelog, tag, "--newest") == 0

    assert capsys.readouterr().out == NOTES


def test_the_section_ends_at_the_next_heading(
    changelog: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(changelog, "1.0.0") == 0

    assert capsys.readouterr().out == "- All of it.\n"


def test_the_last_section_ends_before_the_targets_of_links(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "CHANGELOG.md"
    file.write_text("## [1.0.0] - 2026-11-25\n\n- All of it.\n\n[1.0.0]: https://example.com\n")

    assert run(file, "1.0.0") == 0
    assert capsys.readouterr().out == "- All of it.\n"


@pytest.mark.parametrize(
    ("version", "prerelease"), [("1.0.0", "false\n"), ("1.1.0rc1", "true\n"), ("v1.0.0", "false\n")]
)
def test_it_tells_pre_releases(
    changelog: Path, version: str, prerelease: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(changelog, version, "--prerelease") == 0

    assert capsys.readouterr().out == prerelease


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["main"],
            (
                "expected a version like 1.2.3 or 1.2.3rc1, found 'main': "
                "tag the release with its version in CHANGELOG.md"
            ),
        ),
        (
            ["1.2.0"],
            (
                "expected a heading ## [1.2.0] - YYYY-MM-DD in CHANGELOG.md, "
                "found '## [1.1.0rc1] - 2026-12-01' as the newest; what is under [Unreleased] may "
                "belong to it: write the heading and commit it, then tag that commit"
            ),
        ),
        (
            ["0.9.0"],
            (
                "expected the heading ## [0.9.0] - YYYY-MM-DD in CHANGELOG.md, found '## [0.9.0]': "
                "write its date, commit it, then tag that commit"
            ),
        ),
        (
            ["1.0.0", "--newest"],
            (
                "expected 1.0.0 to be the newest version in CHANGELOG.md, "
                "found '## [1.1.0rc1] - 2026-12-01': tag the commit that released it"
            ),
        ),
        (
            ["0.8.0"],
            (
                "expected notes below '## [0.8.0] - 2026-11-01' in CHANGELOG.md, found none: "
                "write what users notice"
            ),
        ),
    ],
)
def test_what_is_wrong_is_named_with_what_to_do(
    changelog: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(changelog, *arguments) == 1

    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == message + "\n"


def test_each_version_of_our_changelog_has_notes() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    versions = [section.version for section in SCRIPT["sections"](text)]

    assert "0.9.0" in versions
    for version in versions:
        if version != SCRIPT["UNRELEASED"]:
            notes = SCRIPT["release_notes"](text, version)
            assert "\n- " in notes
            assert not re.search(r"\n +\w", notes)  # each paragraph is one line
