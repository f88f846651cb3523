"""Recipes of radiance_to_pbr: the shipped ones load, wrong keys are named, what is written reads back."""

from __future__ import annotations

from pathlib import Path

import pytest

from sds3d.config.load import list_recipes
from sds3d.config.materials import dump_materials, load_materials, material_recipes
from sds3d.config.materials_stages import PARAMETERS
from sds3d.errors import ConfigError


def test_shipped_recipes_load_and_read_back(tmp_path: Path) -> None:
    assert "radiance-to-pbr" in material_recipes()
    for name, path in material_recipes().items():
        config = load_materials(name)
        assert config.name == name == path.stem and set(config.learning_rates) == set(PARAMETERS)
        file = tmp_path / f"{name}.yaml"
        file.write_text(dump_materials(config))
        assert load_materials(file) == config


def test_they_are_not_listed_among_recipes_of_the_other_kind() -> None:
    assert not {file.stem for file, _ in list_recipes()} & set(material_recipes())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("wieghts.dssim=0.1", r"Unknown key 'wieghts'.*Did you mean .*weights"),
        ("weights.dssim=2", r"'weights.dssim' is 2"),
        ("learning_rates.sh1=0.1", r"'sh1' is no kind of parameter. Did you mean 'sh0'"),
        ("stages.raw.rate_scale.progres=1", r"'progres' is no kind of parameter. Did you mean 'progress'"),
        ("method=physical", r"'method' is"),
        ("stages.raw.steps=-1", r"'stages.raw.steps' is -1"),
        ("surface.init=hul", r"a surface is 'hull'.*or a file that ends in .glb"),
    ],
)
def test_wrong_keys_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_materials(overrides=[override])


def test_overrides_and_unknown_names() -> None:
    config = load_materials(overrides=["stages.raw.steps=7", "learning_rates.light=0.5"])
    assert config.stages.raw.steps == 7 and config.learning_rates["light"].at(3, 10) == 0.5
    assert config.stages.raw.rate_scale == {"sh0": 8.0, "sh_rest": 40.0, "raw_field": 20.0}
    assert (
        config.total_steps == 7 + config.stages.specular.steps + config.stages.diffuse.steps + config.stages.joint.steps
    )
    with pytest.raises(ConfigError, match="There is no material recipe 'radiance'"):
        load_materials("radiance")
