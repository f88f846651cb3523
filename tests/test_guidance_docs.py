"""The pages about distillation methods follow the table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sds3d.guidance.methods import markdown_table

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_the_table_is_that_of_the_code() -> None:
    written = (DOCS / "methods" / "table.md").read_text(encoding="utf-8")
    assert written == markdown_table(), "run: python -m sds3d.guidance.methods > docs/methods/table.md"


@pytest.mark.parametrize("page", ["direct.md", "trained.md", "paths.md", "editing.md", "prompts-and-filters.md"])
def test_pages_say_where_they_differ(page: str) -> None:
    assert "ifference" in (DOCS / "methods" / page).read_text(encoding="utf-8")


def test_the_introduction_names_files_that_exist() -> None:
    text = (DOCS / "guidance.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (DOCS / target).exists(), target
