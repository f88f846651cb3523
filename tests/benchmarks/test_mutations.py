"""The list of mutations stays true: every place exists once and every test file is there. (Running it takes minutes.)"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutations", ROOT / "benchmarks" / "mutations.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutations"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


MUTATIONS = load().MUTATIONS


def test_there_are_enough_and_each_has_a_name() -> None:
    assert len(MUTATIONS) >= 10 and len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_place_exists_once(mutation) -> None:  # type: ignore[no-untyped-def]
    text = (ROOT / mutation.file).read_text(encoding="utf-8")
    assert text.count(mutation.old) == 1 and mutation.old != mutation.new
    assert all((ROOT / test).is_file() for test in mutation.tests.split())
