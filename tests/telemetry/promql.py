"""Which metrics and labels a PromQL expression names: enough of the language for our rules."""

import re
from dataclasses import dataclass

_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')
_METRIC = re.compile(r"\b([a-zA-Z_:][a-zA-Z0-9_:]*)\b(?!\s*\()\s*(\{[^}]*\})?")
_LABELS = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_WORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}

OF_THE_TARGET = {"job", "instance"}
"""Labels that Prometheus adds to all that it scrapes."""


@dataclass(frozen=True)
class Named:
    """What an expression needs: metrics with the labels that it matches, and labels to group."""

    metrics: dict[str, set[str]]
    grouped: set[str]


def read(expression: str) -> Named:
    """Read an expression."""
    text = _TEXT.sub('""', expression)
    text = re.sub(r"\[[^\]]*\]", "", text)
    grouped = {
        label.strip() for found in _LABELS.findall(text) for label in found.split(",") if label
    }
    text = _LABELS.sub("", text)
    metrics: dict[str, set[str]] = {}
    for name, matchers in _METRIC.findall(text):
        if name not in _WORDS:
            metrics.setdefault(name, set()).update(_MATCHER.findall(matchers))
    return Named(metrics, grouped)


def problems(expression: str, exported: dict[str, set[str]]) -> list[str]:
    """Return what ``expression`` names that is not exported; ``exported`` has labels by metric."""
    named = read(expression)
    found = [f"{name} is not a metric" for name in named.metrics if name not in exported]
    there = {name: exported.get(name, set()) | OF_THE_TARGET for name in named.metrics}
    for name, labels in named.metrics.items():
        found += [f"{name} has no label {label}" for label in sorted(labels - there[name])]
    common = set[str].intersection(*there.values()) if there else set()
    return found + [f"not all have the label {label}" for label in sorted(named.grouped - common)]
