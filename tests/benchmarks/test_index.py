"""docs/benchmarks.md lists every benchmark that can be run, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"


def test_every_benchmark_is_listed_once() -> None:
    listed = re.findall(r"^\| `python benchmarks/(\w+)\.py`", PAGE.read_text(encoding="utf-8"), re.M)
    programs = [
        file.stem for file in (ROOT / "benchmarks").glob("*.py") if '"__main__"' in file.read_text(encoding="utf-8")
    ]
    assert sorted(listed) == sorted(programs)


def test_its_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#:]+)[^)]*\)", PAGE.read_text(encoding="utf-8"))
    assert targets and all((PAGE.parent / target).exists() for target in targets)
