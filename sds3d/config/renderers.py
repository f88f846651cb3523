"""The configurations of all renderers as one choice, by their `kind`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sds3d.config.gaussians import GaussiansConfig
from sds3d.config.nerf import NerfConfig, SdfConfig
from sds3d.config.pbr import PbrMeshConfig
from sds3d.config.sketch import SketchConfig
from sds3d.config.surface import SurfaceConfig
from sds3d.config.triplane import TriplaneConfig

AnyRenderer = Annotated[
    GaussiansConfig | NerfConfig | SdfConfig | SurfaceConfig | PbrMeshConfig | SketchConfig | TriplaneConfig,
    Field(discriminator="kind"),
]
"""What may stand under `renderer:` of a recipe."""
