"""The table of methods and their configurations."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from sds3d.guidance.config import AnyGuidance, GuidanceConfig, MvdreamReconConfig, SdsConfig
from sds3d.guidance.methods import METHODS
from sds3d.schedule import Schedule


class Recipe(BaseModel):
    model_config = ConfigDict(extra="forbid")
    guidance: AnyGuidance = SdsConfig()


def test_table_and_configuration_name_the_same_methods() -> None:
    configured = {kind.model_fields["method"].default: kind for kind in get_args(get_args(AnyGuidance)[0])}
    assert {name: method.config for name, method in METHODS.items()} == configured


@pytest.mark.parametrize("name", METHODS)
def test_rows_are_complete_and_count_their_evaluations(name: str) -> None:
    row = METHODS[name]
    rule = row.rule(row.config())
    assert len(rule.needs) == row.evals
    assert all([row.paper, row.arxiv, row.source, row.config.__doc__])
    for field in row.config.model_fields.values():
        assert field.description or field.default == name


def test_the_key_method_chooses_the_class() -> None:
    recipe = Recipe.model_validate({"guidance": {"method": "mvdream-recon", "rescale": 0.3, "t_max": 0.5}})
    assert isinstance(recipe.guidance, MvdreamReconConfig)
    assert recipe.guidance.rescale == Schedule.constant(0.3)
    assert recipe.guidance.guidance_scale == Schedule.constant(50.0) and recipe.guidance.group == 0
    assert Recipe.model_validate(recipe.model_dump()) == recipe


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "sds", "rescale": 0.5}, "Extra inputs are not permitted"),
        ({"method": "sdss"}, "'sds', 'mvdream-recon'"),
        ({"method": "sds", "t_max": 1.2}, r"the value 1.2 is out of range: allowed is \[0, 1\]"),
        ({"method": "sds", "t_min": 0.6, "t_max": 0.5}, "the time window is empty: t_min takes .0.6., t_max .0.5."),
        ({"method": "sds", "weight": "sigma"}, "'sds', 'uniform'"),
        ({"method": "sds", "clamp": -1}, r"allowed is \[0, inf\]"),
        ({"method": "mvdream-recon", "group": -1}, "greater than or equal to 0"),
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
