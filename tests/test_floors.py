"""Imports only go down: launch.py over systems/ over renderers/ over sds3d/."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "sds3d": {"renderers", "systems", "launch"},
    "renderers": {"systems", "launch"},
    "systems": {"launch"},
}


def imported(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, top-level package) of every absolute import, wherever it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.split(".")[0]


@pytest.mark.parametrize("floor", FORBIDDEN)
def test_imports_only_go_down(floor: str) -> None:
    files = sorted((ROOT / floor).rglob("*.py"))
    assert files, f"'{floor}' has no Python files: the test looks in the wrong place"
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {package}"
        for file in files
        for line, package in imported(file.read_text(encoding="utf-8"))
        if package in FORBIDDEN[floor]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_relative_imports_hide_from_the_test() -> None:
    for floor in FORBIDDEN:
        for file in (ROOT / floor).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                assert not (isinstance(node, ast.ImportFrom) and node.level), f"{file}:{node.lineno} imports relatively"


@pytest.mark.parametrize(
    "source",
    ["import systems.base", "from systems import base", "def f():\n    import systems as s", "import os, systems"],
)
def test_the_test_sees_every_form(source: str) -> None:
    assert "systems" in {package for _, package in imported(source)}
