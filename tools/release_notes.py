"""Print the notes of a release: the section of its version in CHANGELOG.md.

``python tools/release_notes.py 1.2.3`` prints the section below ``## [1.2.3] - 2026-11-25``; a tag
such as ``v1.2.3`` is taken, too. ``--newest`` refuses a version that has others above it, and
``--prerelease`` prints ``true`` for one like 1.2.3rc1, and ``false`` for others, instead of the
section. What is wrong goes to standard error, with exit code 1. Standard library only.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CHANGELOG = Path(__file__).resolve().parent.parent / "CHANGELOG.md"
UNRELEASED = "Unreleased"

_VERSION = re.compile(r"\d+\.\d+\.\d+(?P<pre>(a|b|rc)\d+)?")
_HEADING = re.compile(r"^## \[(?P<version>[^\]]+)\](?P<rest>.*)$")
_DATE = re.compile(r" - \d{4}-\d\d-\d\d")
_FENCE = re.compile(r"^ *(```|~~~)")
_LINK = re.compile(r"^\[[^\]]+\]: \S+$")
"""The target of a link, as Keep a Changelog has them for the versions at the end of the file."""
_BLOCK = re.compile(r"^ *([-*+] |[>|]|#+ |\d+[.)] )")
"""The beginning of a list item, quotation, row of a table or heading, which ends a paragraph."""


class ReleaseNotesError(Exception):
    """A version has no notes; the text says why and what to do."""


@dataclass(frozen=True)
class Section:
    """A heading of the changelog and what is below it."""

    version: str
    heading: str
    text: str

    @property
    def is_dated(self) -> bool:
        """Tell whether the heading ends in a date."""
        found = _HEADING.match(self.heading)
        return found is not None and _DATE.fullmatch(found["rest"]) is not None


def parse_tag(tag: str) -> str:
    """Return the version that a tag names.

    Raises:
        ReleaseNotesError: it names none.
    """
    version = tag.removeprefix("v")
    if not _VERSION.fullmatch(version):
        message = (
            f"expected a version like 1.2.3 or 1.2.3rc1, found {tag!r}: "
            "tag the release with its version in CHANGELOG.md"
        )
        raise ReleaseNotesError(message)
    return version


def is_prerelease(version: str) -> bool:
    """Tell whether a version like 1.2.3rc1 comes before the release that it is named after."""
    found = _VERSION.fullmatch(version)
    return found is not None and found["pre"] is not None


def sections(changelog: str) -> Iterator[Section]:
    """Yield the sections of a changelog; a heading in a code block does not count."""
    heading, version, lines = "", "", list[str]()
    fenced = False
    for line in changelog.splitlines():
        fenced ^= bool(_FENCE.match(line))
        found = None if fenced else _HEADING.match(line)
        if found or (not fenced and line.startswith("## ")):
            if version:
                yield Section(version, heading, "\n".join(lines).strip("\n"))
            heading, version, lines = line, found["version"] if found else "", []
        elif fenced or not _LINK.match(line):
            lines.append(line)
    if version:
        yield Section(version, heading, "\n".join(lines).strip("\n"))


def join_lines(text: str) -> str:
    """Put each paragraph into one line: GitHub shows the line breaks of release notes."""
    joined: list[str] = []
    fenced = False
    for line in text.splitlines():
        fence = bool(_FENCE.match(line))
        before = joined[-1] if joined else ""
        continues = line and before and not before.lstrip().startswith("#")
        if fenced or fence or not continues or _BLOCK.match(line) or _FENCE.match(before):
            joined.append(line)
        else:
            joined[-1] = f"{before} {line.strip()}"
        fenced ^= fence
    return "\n".join(joined)


def release_notes(changelog: str, version: str, *, newest: bool = False) -> str:
    """Return the notes of a version.

    Raises:
        ReleaseNotesError: the changelog has no section for it that can be released, or, with
            ``newest``, the section is not the first one.
    """
    listed = {section.version: section for section in sections(changelog)}
    unreleased = listed.pop(UNRELEASED, None)
    wanted = f"## [{version}] - YYYY-MM-DD"
    first = next(iter(listed.values()), None)
    found = first.heading if first else "no version"
    if version not in listed:
        heading = f"; what is under [{UNRELEASED}] may belong to it" if unreleased else ""
        message = (
            f"expected a heading {wanted} in CHANGELOG.md, found {found!r} as the newest{heading}: "
            "write the heading and commit it, then tag that commit"
        )
        raise ReleaseNotesError(message)
    section = listed[version]
    if not section.is_dated:
        message = (
            f"expected the heading {wanted} in CHANGELOG.md, found {section.heading!r}: "
            "write its date, commit it, then tag that commit"
        )
        raise ReleaseNotesError(message)
    if newest and section is not first:
        message = (
            f"expected {version} to be the newest version in CHANGELOG.md, found {found!r}: "
            "tag the commit that released it"
        )
        raise ReleaseNotesError(message)
    if all(not line or line.startswith("#") for line in section.text.splitlines()):
        message = (
            f"expected notes below {section.heading!r} in CHANGELOG.md, found none: "
            "write what users notice"
        )
        raise ReleaseNotesError(message)
    return join_lines(section.text) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the notes of a version, or whether it is a pre-release; return the exit code."""
    parser = argparse.ArgumentParser(description="Print the section of a version in CHANGELOG.md.")
    parser.add_argument("version", help="such as 1.2.3 or v1.2.3rc1")
    parser.add_argument("--changelog", type=Path, default=CHANGELOG, help="another file")
    parser.add_argument("--newest", action="store_true", help="refuse a version that is not first")
    parser.add_argument("--prerelease", action="store_true", help="print true or false")
    options = parser.parse_args(arguments)
    try:
        version = parse_tag(options.version)
        changelog = options.changelog.read_text("utf-8")
        notes = release_notes(changelog, version, newest=options.newest)
    except ReleaseNotesError as error:
        print(error, file=sys.stderr)
        return 1
    if options.prerelease:
        print("true" if is_prerelease(version) else "false")
    else:
        print(notes, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
