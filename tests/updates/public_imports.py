"""What files of projects import from the base; run as a script, adds that of projects to the list.

``python tests/updates/public_imports.py PROJECT…``
"""

import ast
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

LIST = Path(__file__).with_suffix(".txt")
FILES = ("Dockerfile", ".pre-commit-config.yaml")


def of_code(text: str) -> Iterator[str]:
    """Yield ``workerbase.module: name`` for each import from the base in Python code."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found = re.fullmatch(r"(?:\w+\.)?(workerbase(?:\.\w+)*)", node.module)
            yield from (f"{found[1]}: {alias.name}" for alias in node.names if found)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                assert "workerbase" not in alias.name, f"write `from … import`: {alias.name}"


def of_text(text: str) -> Iterator[str]:
    """Yield entry points, such as ``PACKAGE.workerbase.module:name``, and paths of files."""
    for module, name in re.findall(r'"\w+\.(workerbase[\w.]*):(\w+)"', text):
        yield f"{module}: {name}"
    yield from re.findall(r"src/\w+/(workerbase/[\w/]+\.py)\b", text)


def of_blocks(text: str) -> Iterator[str]:
    """Yield the imports of the Python in a document."""
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield from of_code(textwrap.dedent(block))


def imported_by(project: Path) -> set[str]:
    """Return all of the base that files outside of it name."""
    found: set[str] = set()
    for path in (*project.glob("src/*/*.py"), *project.glob("tests/*.py")):
        found.update(of_code(path.read_text("utf-8")))
    for path in (project / "pyproject.toml", *(project / name for name in FILES)):
        found.update(of_text(path.read_text("utf-8")))
    for path in (project / "README.md", *project.glob("docs/*.md")):
        found.update(of_blocks(path.read_text("utf-8")))
    return found


def read(text: str) -> set[str]:
    """Return the lines of the list."""
    return {line for line in text.splitlines() if line and not line.startswith("#")}


def write(found: Iterable[str]) -> str:
    """Return the list, with its explanation."""
    comment = "".join(
        f"{line}\n" for line in LIST.read_text("utf-8").splitlines() if line.startswith("#")
    )
    return comment + "\n" + "".join(f"{line}\n" for line in sorted(found))


if __name__ == "__main__":
    known = read(LIST.read_text("utf-8"))
    LIST.write_text(
        write(known.union(*(imported_by(Path(name)) for name in sys.argv[1:]))), "utf-8"
    )
