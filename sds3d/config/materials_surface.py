"""Configuration of the mesh variant of radiance_to_pbr: materials, progress and baked colours on a given surface."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from sds3d.config.base import Config
from sds3d.config.surface import FILE_ENDINGS
from sds3d.errors import nearest

GEOMETRIES = ("none", "own", "hull")
"""What the surface may be, beside a file."""


def _geometry(init: str) -> str:
    if init in GEOMETRIES or init.lower().endswith(FILE_ENDINGS):
        return init
    raise ValueError(
        f"a surface is {nearest(init, GEOMETRIES)}, or a file that ends in {', '.join(FILE_ENDINGS)}; got '{init}'. Give one "
        "of these."
    )


class MaterialSurfaceConfig(Config):
    """A mesh in the place of the Gaussians; it stays as it is."""

    init: Annotated[str, AfterValidator(_geometry)] = Field(
        default="none",
        max_length=2000,
        description="none: Gaussians; own: the mesh of the run or of the toybox scene that is distilled; hull: the surface of "
        "what all silhouettes allow; or a mesh file in the world of the cameras",
    )
    jitter: float = Field(
        default=0.03, gt=0, le=1, description="how far apart points are whose materials are compared, world units"
    )
    levels: int = Field(default=6, ge=1, le=24, description="resolutions of the hash grids")
    channels: int = Field(default=2, ge=1, le=16, description="features a level")
    base_resolution: int = Field(default=8, ge=2, le=512, description="cells a side of the coarsest level")
    finest_resolution: int = Field(
        default=64,
        ge=2,
        le=65_536,
        description="cells a side of the finest level: about the size of a pixel on the surface",
    )
    log2_table_size: int = Field(default=15, ge=8, le=24, description="rows of a hash table, as a power of 2")
    hidden: int = Field(default=32, ge=1, le=1024, description="units of the networks' hidden layer")
    layers: int = Field(default=1, ge=1, le=8, description="hidden layers of the networks")
    backend: Literal["auto", "reference", "cpu", "nvdiffrast", "pytorch3d"] = Field(
        default="auto", description="rasteriser of the mesh"
    )
