"""Finds files of a rendered project that nothing reads, imports or names."""

import ast
import functools
import re
from fnmatch import fnmatch
from pathlib import Path

from rendering_support import Tree

WHO_READS = {
    ".copier-answers.yml": "copier update",
    ".dockerignore": "docker",
    ".editorconfig": "editors",
    ".env.example": "people",
    ".gitattributes": "git",
    ".github/dependabot.yml": "GitHub",
    ".github/workflows/*.yml": "GitHub",
    ".gitignore": "git",
    ".pre-commit-config.yaml": "pre-commit",
    "AGENTS.md": "people and coding agents",
    "CHANGELOG.md": "people",
    "deploy/grafana/*.json": "Grafana",
    "deploy/prometheus/*.yml": "Prometheus",
    "Dockerfile": "docker",
    "LICENSE": "people",
    "README.md": "people",
    "docs/*.md": "people",
    "src/*/workerbase/README.md": "people",
    "compose*.yaml": "docker compose",
    "deploy/kubernetes/*/kustomization.yaml": "kubectl",
    "pyproject.toml": "uv",
    "renovate.json": "Renovate",
    "src/*/py.typed": "type checkers",
    "src/*/__init__.py": "Python",
    "src/*/__main__.py": "Python",
    "tests/conftest.py": "pytest",
    "tests/test_*.py": "pytest",
}
"""Files with a reader by convention; each other one must be used by another file."""


@functools.cache
def imported(path: str, text: str) -> set[str]:
    """Return the dotted names, below ``src``, of the modules that a module imports."""
    parts = Path(path).with_suffix("").parts[1 if path.startswith("src/") else 0 :]
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            home = parts[: len(parts) - node.level] if node.level else ()
            module = ".".join([*home, *(node.module or "").split(".")]).strip(".")
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def dead(tree: Tree) -> list[str]:
    """Return the files that nothing reads, imports or names."""
    # A manifest names every file of the base.
    texts = {path: c.decode("utf-8") for path, c in tree.items() if not path.endswith("MANIFEST")}
    imports = {path: imported(path, text) for path, text in texts.items() if path.endswith(".py")}
    found: list[str] = []
    for path in texts:
        if any(fnmatch(path, pattern) for pattern in WHO_READS):
            continue
        if path.endswith(".lua"):
            if not is_loaded(path, texts):
                found.append(path)
            continue
        module = ".".join(Path(path).with_suffix("").parts[1:])
        if any(module in names for other, names in imports.items() if other != path):
            continue
        # Run as a program by its dotted name after python -m, or read by its path or name.
        names = [path, module.partition(".")[2] if path.endswith(".py") else Path(path).name]
        named = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in names))
        if not any(named.search(text) for other, text in texts.items() if other != path):
            found.append(path)
    return found


def is_loaded(path: str, texts: dict[str, str]) -> bool:
    """Tell whether a module loads the script, or another script includes it."""
    name = Path(path).stem
    loads = re.compile(rf'"{name}"|^-- #include {name}$', re.MULTILINE)
    return any(loads.search(text) for other, text in texts.items() if other != path)
