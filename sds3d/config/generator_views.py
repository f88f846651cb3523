"""How a generator's objects are drawn in training. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sds3d.config.base import Config
from sds3d.config.problems import KeyProblem
from sds3d.schedule import Schedule, bounded

Weight = Annotated[Schedule, bounded(low=0)]
Share = Annotated[Schedule, bounded(0, 1)]


class VolumeConfig(Config):
    """Triplanes drawn by volume rendering."""

    samples: int = Field(default=32, ge=4, le=1024, description="points a ray is sampled at")
    coarse: int = Field(default=0, ge=0, le=1024, description="points of a first pass that finds the surface; 0: none")
    rule: Literal["volsdf", "neus"] = Field(default="volsdf", description="how distances become opacity")
    sharpness: float = Field(
        default=20.0, gt=0, le=10_000, description="of the surface, per world unit (100: published)"
    )
    field: Literal["points", "grid"] = Field(
        default="points",
        description="where the heads are asked: at every sample; or once at the texels' grid, with samples interpolated "
        "(several times cheaper for planes up to about 48, no normals)",
    )
    normals: bool = Field(
        default=False, description="compute normals and the eikonal term (a second derivative: slower)"
    )

    keep_surface: bool = Field(
        default=True, description="draw an object that has vanished as a speck, so that it can come back"
    )

    @model_validator(mode="after")
    def _check(self) -> VolumeConfig:
        if self.normals and self.field == "grid":
            raise KeyProblem(
                "normals", "'normals' needs 'field' points, because an interpolated field has no second derivative. "
                "Set field: points, or normals: false."
            )  # fmt: skip
        return self


class MeshConfig(Config):
    """Triplanes drawn as meshes."""

    resolution: int = Field(default=32, ge=4, le=256, description="cells of the grid along an edge")
    deform: bool = Field(default=True, description="let the network move the nodes of the grid")
    backend: str = Field(default="auto", description="rasteriser, as for other meshes")


class ViewConfig(Config):
    """One of the renderers that draw each object in training, and what its gradient may change."""

    kind: Literal["volume", "mesh", "identity"] = Field(
        default="volume", description="identity: the object is a picture (its latents) already"
    )
    volume: VolumeConfig = Field(default_factory=VolumeConfig, description="settings of kind volume")
    mesh: MeshConfig = Field(default_factory=MeshConfig, description="settings of kind mesh")
    size: int = Field(default=64, ge=8, le=2048, description="side of its pictures, pixels")
    colour_share: Share = Field(
        default=Schedule.constant(1.0),
        description="factor on the gradient of colours (published for volumes: 1 to 0.01)",
    )
    shape_share: Share = Field(
        default=Schedule.constant(1.0), description="factor on the gradient of a mesh's shape (published: 0.001)"
    )
    sparsity: Weight = Field(default=Schedule.constant(0.0), description="weight of the mean opacity")
    eikonal: Weight = Field(default=Schedule.constant(0.0), description="weight of the distance's slope being 1")
