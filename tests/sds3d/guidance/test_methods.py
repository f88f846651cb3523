"""The table of methods and their configurations."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from sds3d.guidance.config import GuidanceConfig
from sds3d.guidance.methods import METHODS, AnyGuidance, MvdreamReconConfig, SdsConfig, table_rows
from sds3d.schedule import Schedule


class Recipe(BaseModel):
    model_config = ConfigDict(extra="forbid")
    guidance: AnyGuidance = SdsConfig()


EXPECTED = {
    *("sds", "sjc", "vsd", "esd", "csd", "nfsd", "dsd", "bsd", "ism", "asynchronous", "adversarial", "sdi", "bridge"),
    *("dds", "pds", "consistent3d", "ssd", "mvdream-recon", "hifa", "rfds", "rfds-rev"),
}


def test_the_published_methods_are_there() -> None:
    assert set(METHODS) >= EXPECTED


def test_table_and_configuration_name_the_same_methods() -> None:
    configured = {kind.model_fields["method"].default: kind for kind in get_args(get_args(AnyGuidance)[0])}
    assert {name: method.config for name, method in METHODS.items()} == configured


@pytest.mark.parametrize("name", METHODS)
def test_rows_are_complete(name: str) -> None:
    row = METHODS[name]
    assert all([row.title, row.paper, row.source, row.formula, row.config.__doc__])
    assert len(row.arxiv.split(".")) == 2 and row.arxiv.replace(".", "").isdigit()
    for field, info in row.config.model_fields.items():
        assert info.description or field == "method", f"{name}.{field}"
    needs = row.rule(row.config()).needs
    assert row.trains == any(branch.network == "psi" for branch in needs)
    assert ("source picture" in row.needs) == any(branch.point == "src" for branch in needs)


def test_the_printed_table_comes_from_the_rows() -> None:
    rows = {row["method"]: row for row in table_rows()}
    assert list(rows) == list(METHODS)
    assert rows["sds"]["branches"] == "y, u" and rows["sds"]["evaluations"] == "2"
    assert rows["vsd"]["evaluations"] == "2 + 1 psi + (1 psi forward and backward)"
    assert rows["esd"]["branches"] == "y, u, psi:plain, psi:plain-camera"
    assert rows["ism"]["evaluations"].endswith("6 at t = 500") and rows["sdi"]["evaluations"].endswith("14 at t = 500")
    assert rows["adversarial"]["needs"] == "trained score network"


def test_the_key_method_chooses_the_class() -> None:
    recipe = Recipe.model_validate({"guidance": {"method": "mvdream-recon", "rescale": 0.3, "t_max": 0.5}})
    assert isinstance(recipe.guidance, MvdreamReconConfig)
    assert recipe.guidance.rescale == Schedule.constant(0.3)
    assert recipe.guidance.guidance_scale == Schedule.constant(50.0) and recipe.guidance.group == 0
    assert Recipe.model_validate(recipe.model_dump()) == recipe


@pytest.mark.parametrize("name", METHODS)
def test_every_configuration_reads_what_it_writes(name: str) -> None:
    recipe = Recipe.model_validate({"guidance": {"method": name}})
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert recipe.guidance == METHODS[name].config()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "sds", "rescale": 0.5}, "Extra inputs are not permitted"),
        ({"method": "sdss"}, "'sds', 'sjc'"),
        ({"method": "sds", "t_max": 1.2}, r"the value 1.2 is out of range: allowed is \[0, 1\]"),
        ({"method": "bsd", "t_max": 1.2}, r"the value 1.2 is out of range: allowed is \[0, 1\]"),
        ({"method": "sds", "t_min": 0.6, "t_max": 0.5}, "the time window is empty: t_min takes .0.6., t_max .0.5."),
        ({"method": "sds", "weight": "sigma"}, "'sds', 'uniform'"),
        ({"method": "sds", "clamp": -1}, r"allowed is \[0, inf\]"),
        ({"method": "mvdream-recon", "group": -1}, "greater than or equal to 0"),
        ({"method": "adversarial", "adversarial_weight": -1}, "greater than -1"),
        ({"method": "vsd", "score": {"rank": 0}}, "greater than or equal to 1"),
        ({"method": "vsd", "score": {"rnk": 4}}, "Extra inputs are not permitted"),
        ({"method": "consistent3d", "gap": [100]}, "Field required"),
    ],
)
def test_bad_settings_are_refused(given: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Recipe.model_validate({"guidance": given})


def test_windows_that_both_move_are_allowed() -> None:
    def fall(first: float, last: float) -> dict:
        return {"clock": "fraction", "points": [[0, first], [0.8, last]]}

    config = SdsConfig.model_validate({"t_min": fall(0.5, 0.02), "t_max": fall(0.98, 0.4)})
    assert isinstance(config, GuidanceConfig)
