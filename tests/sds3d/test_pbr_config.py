"""The configuration of meshes with materials: starts, lights, and what does not go together."""

from __future__ import annotations

import pytest

from sds3d.config import load_recipe
from sds3d.config.pbr import LIGHT_NAMES, PbrMeshConfig
from sds3d.errors import ConfigError
from sds3d.shading.lights import LIGHTS


def test_names_of_lights_are_those_that_ship():
    assert set(LIGHT_NAMES) == set(LIGHTS)


def test_dreammat_asks_for_the_channels_of_its_network():
    recipe = load_recipe("dreammat")
    assert recipe.renderer.control_channels == 22 and recipe.renderer.conditions == ("depth", "normal", "light")
    assert load_recipe("dreammat", ["tiny"]).renderer.conditions == recipe.renderer.conditions
    assert load_recipe("fantasia3d-appearance", ["tiny"]).renderer.conditions == ()
    assert recipe.guidance.method == "csd" and load_recipe("fantasia3d-appearance").guidance.method == "sds"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("renderer.init=toybox:mugg", "'toybox:' and 'mug'"),
        ("renderer.init=mesh.xyz", "a start is 'sphere', 'toybox:mug', or a file that ends in .glb"),
        ("renderer.lights=[studioo]", "a light is 'studio', or a file that ends in .hdr or .exr"),
        ("renderer.texture.kind=uv", "a material is a function of the place: use 'field' or 'grid'"),
        ("renderer.conditions=[depth, depth]", "names a picture twice"),
        ("renderer.roughness=[0.9, 0.1]", "low <= high"),
    ],
)
def test_wrong_values_are_named(change, message):
    with pytest.raises(ConfigError) as raised:
        load_recipe("dreammat", [], [change])
    assert message in str(raised.value)


def test_files_and_toys_are_told_apart():
    assert PbrMeshConfig(init="a/b.glb").is_file and not PbrMeshConfig(init="toybox:duck").is_file
    assert not PbrMeshConfig().is_file
