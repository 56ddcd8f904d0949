"""What every Lua file says about itself is what it does."""

import re
from pathlib import Path

import pytest
import workerbase

BASE = Path(workerbase.__file__).parent
FILES = sorted(BASE.rglob("lua/*.lua"))
KEYS_FILE = BASE / "broker" / "lua" / "keys.lua"
IDS = [str(path.relative_to(BASE)) for path in FILES]

INCLUDE = re.compile(r"^-- #include (\w+)$", re.MULTILINE)
DOCUMENTED = re.compile(r"^-- (KEYS|ARGV)\[(\d+)(\.\.)?\] \S", re.MULTILINE)
KEY_NAME = re.compile(r"arq:|:wake|:idle|:cron:|:dlq|:parked|:requeued|:health-check")


def split(path: Path) -> tuple[str, str]:
    """Return the header, which ends with the first blank line, and the code without comments."""
    header, _, code = path.read_text(encoding="utf-8").partition("\n\n")
    return header, re.sub(r"--.*", "", code)


def documented(header: str, array: str) -> list[int]:
    return [int(number) for name, number, _ in DOCUMENTED.findall(header) if name == array]


def open_ended(header: str, array: str) -> list[int]:
    return [int(n) for name, n, dots in DOCUMENTED.findall(header) if name == array and dots]


def used(code: str, array: str) -> set[int]:
    """Return the indices at which the code reads ``KEYS`` or ``ARGV``."""
    numbers = {int(number) for number in re.findall(rf"\b{array}\[(\d+)\]", code)}
    # local first, second = unpack(ARGV), also behind other values
    for names, values in re.findall(rf"local ([\w, ]+) = (.*)unpack\({array}\)", code):
        numbers |= set(range(1, 1 + len(names.split(",")) - values.count(",")))
    for first, last in re.findall(rf"unpack\({array}, (\d+), (\d+)\)", code):
        numbers |= set(range(int(first), int(last) + 1))
    return numbers | rest(code, array)


def rest(code: str, array: str) -> set[int]:
    """Return the indices from which the code reads all that follow."""
    patterns = (
        rf"unpack\({array}, (\d+)\)",
        rf"for i = (\d+), #{array}\b",
        r"bounded_add\(\w+, \w+, (\d+)\)" if array == "ARGV" else r"(?!)",
    )
    return {int(number) for pattern in patterns for number in re.findall(pattern, code)}


def test_there_are_scripts() -> None:
    assert {path.parent.parent.name for path in FILES} == {
        "broker",
        "console",
        "inspector",
        "jobs",
        "streams",
    }
    assert len(FILES) >= 29


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_the_header_says_what_the_script_does_and_returns(path: Path) -> None:
    header, code = split(path)
    lines = header.splitlines()
    assert re.match(r"-- [A-Z][a-z]+s ", lines[0]), "begins with a verb in the third person"
    assert all(line == "--" or line.startswith("-- ") for line in lines)
    assert all(len(line) <= 100 for line in path.read_text(encoding="utf-8").splitlines())
    assert [line for line in lines if line.startswith("-- Returns ")]
    described = " ".join(line.removeprefix("-- ") for line in lines)
    if path != KEYS_FILE:
        assert re.search("one step|in the step of the script that includes this", described)
    # What a script can return as a literal is named.
    returns = " ".join(" ".join(lines).partition("-- Returns ")[2].split())
    if "-- Defines " not in header:
        for value in re.findall(r"^(?:return|.*then return) (-?\d+)\b", code, re.MULTILINE):
            assert re.search(rf"(?<![\w-]){value}\b", returns), f"does not mention {value}"


@pytest.mark.parametrize("array", ["KEYS", "ARGV"])
@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_the_header_documents_every_key_and_argument(path: Path, array: str) -> None:
    header, code = split(path)
    numbers = documented(header, array)
    assert numbers == list(range(1, len(numbers) + 1)), "in order, without gaps"
    assert set(numbers) == used(code, array)
    assert set(open_ended(header, array)) == rest(code, array)


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_only_one_file_spells_key_names(path: Path) -> None:
    if path == KEYS_FILE:
        assert KEY_NAME.search(path.read_text(encoding="utf-8"))
    else:
        assert not KEY_NAME.search(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_every_file_is_loaded_or_included(path: Path) -> None:
    loads = "".join(
        module.read_text(encoding="utf-8") for module in path.parent.parent.glob("*.py")
    )
    loaded = f'Script.load(__name__, "{path.stem}")' in loads
    included = any(path.stem in INCLUDE.findall(other.read_text()) for other in FILES)
    assert loaded != included
    assert included == ("-- Defines " in split(path)[0])


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_every_include_is_used(path: Path) -> None:
    _, code = split(path)
    for name in INCLUDE.findall(path.read_text(encoding="utf-8")):
        folder = path.parent if (path.parent / f"{name}.lua").exists() else KEYS_FILE.parent
        _, included = split(folder / f"{name}.lua")
        functions = re.findall(r"local function (\w+)", included)
        assert any(re.search(rf"\b{function}\b", code) for function in functions), name
