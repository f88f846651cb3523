"""The configuration of the mesh renderer."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from sds3d.config.surface import SurfaceConfig


def test_every_parameter_has_a_learning_rate():
    assert SurfaceConfig.PARAMETERS.keys() == SurfaceConfig.LEARNING_RATES.keys()
    assert SurfaceConfig().kind == "mesh"


def test_fields_are_described():
    def check(model):
        for field in model.model_fields.values():
            assert field.description
            if hasattr(field.annotation, "model_fields"):
                check(field.annotation)

    check(SurfaceConfig)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"texture": {"kind": "uv"}}, "needs a mesh whose triangles stay, but geometry is 'flexicubes'"),
        ({"geometry": "fixed", "shading": {"kind": "normal"}}, "show nothing of a mesh that does not move"),
        ({"init_radius": 1.0}, "init_radius 1, but the grid ends at radius 1"),
        ({"init": "blob"}, "a start is 'sphere', or a file that ends in"),
        ({"texture": {"base_resolution": 64, "finest_resolution": 32}}, "base_resolution must be <="),
        ({"resolution": 3}, "greater than or equal to 4"),
    ],
)
def test_what_does_not_go_together(given, message):
    with pytest.raises(ValidationError, match=message):
        SurfaceConfig(**given)


def test_files_and_fixed_meshes_are_fine():
    SurfaceConfig(geometry="offsets", init="Mug.GLB", texture={"kind": "uv"}, shading={"kind": "point"})
