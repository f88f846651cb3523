"""Configuration of the mesh renderer. Names and meanings are those of `renderers.surface`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from sds3d.config.base import Config, start_from
from sds3d.schedule import Schedule

SHAPES = ("sphere",)
"""Surfaces a run can start from without any file."""
FILE_ENDINGS = (".glb", ".obj", ".ply", ".stl", ".off")
"""Endings of meshes a run can start from; whether the file is there is checked when a run begins."""


class TextureConfig(Config):
    """Where the colours of a surface are kept."""

    kind: Literal["grid", "field", "vertices", "uv"] = Field(
        default="grid",
        description="grid: a block of colours in space, quick on a CPU; field: hash grid and a small network; vertices: "
        "one colour a vertex (fixed meshes); uv: an image (fixed meshes, unwrapped by xatlas)",
    )
    resolution: int = Field(default=48, ge=2, le=512, description="grid: cells a side; uv: see image_size")
    image_size: int = Field(default=1024, ge=16, le=8192, description="uv: side of the image, texels")
    levels: int = Field(default=16, ge=1, le=24, description="field: resolutions of the hash grid")
    channels: int = Field(default=2, ge=1, le=16, description="field: features a level")
    base_resolution: int = Field(default=16, ge=2, le=512, description="field: cells a side of the coarsest level")
    finest_resolution: int = Field(default=2048, ge=2, le=65_536, description="field: cells a side of the finest level")
    log2_table_size: int = Field(default=19, ge=8, le=24, description="field: rows of the hash table, as a power of 2")
    hidden: int = Field(default=64, ge=1, le=1024, description="field: units of the network's hidden layer")
    layers: int = Field(default=1, ge=0, le=8, description="field: hidden layers of the network")

    @model_validator(mode="after")
    def _coarse_before_fine(self) -> TextureConfig:
        if self.base_resolution > self.finest_resolution:
            raise ValueError(
                f"base_resolution must be <= finest_resolution, got {self.base_resolution} and {self.finest_resolution}. "
                "Swap them."
            )
        return self


class ShadingConfig(Config):
    """How the surface is lit."""

    kind: Literal["none", "lambert", "point", "normal"] = Field(
        default="lambert",
        description="none: colours as they are; lambert: light from the camera and the sky, as the bundled prior's "
        "training pictures have; point: a random point light a view; normal: a picture of the normals (Fantasia3D)",
    )
    normals: Literal["smooth", "flat"] = Field(
        default="smooth", description="smooth: mean of the faces at a vertex; flat: those of the triangles"
    )
    normal_frame: Literal["world", "camera"] = Field(
        default="world",
        description="normal: axes of the picture; camera: red to the right, green up, blue to the viewer",
    )
    ambient: float = Field(default=0.1, ge=0, le=1, description="point: light from everywhere")
    diffuse: float = Field(default=0.9, ge=0, le=2, description="point: light of the lamp")
    albedo_fraction: float = Field(default=0.25, ge=0, le=1, description="point: share of steps without any light")
    textureless_fraction: float = Field(
        default=0.5, ge=0, le=1, description="point: share of the lit steps in which everything is white"
    )


class SurfaceConfig(Config):
    """A triangle mesh: extracted from signed distances on a grid at each step, or given."""

    PARAMETERS: ClassVar[dict[str, str]] = {
        "sdf": "signed distances at the nodes of the grid, world units",
        "moves": "how far nodes of the grid have moved, before tanh",
        "weights": "FlexiCubes' weights, before their activations",
        "offsets": "how far vertices of a given mesh have moved, world units",
        "texture": "colours before the sigmoid, or features of the field",
        "network": "the small network of a field",
    }
    """Kinds of parameters: the keys of `optimiser.learning_rates`; which of them there are depends on the geometry."""

    LEARNING_RATES: ClassVar[dict[str, Schedule]] = {
        "sdf": Schedule(clock="fraction", points=((0.0, 0.01), (1.0, 0.002))),
        "moves": Schedule(clock="fraction", points=((0.0, 0.02), (1.0, 0.005))),
        "weights": Schedule(clock="fraction", points=((0.0, 0.02), (1.0, 0.005))),
        "offsets": Schedule.constant(0.001),
        "texture": Schedule(clock="fraction", points=((0.0, 0.05), (1.0, 0.01))),
        "network": Schedule.constant(0.005),
    }
    """Default learning rates."""

    REGULARISERS: ClassVar[dict[str, str]] = {
        "normal_consistency": "mean of 1 - cosine between the normals at both ends of an edge: flat where it may be",
        "laplacian": "mean distance of vertices from the middle of their neighbours, world units: no spikes",
        "edge_length": "mean squared length of edges, world units: no long thin triangles",
        "sdf_entropy": "cross entropy of signed distances at both ends of crossed edges: no surface where none is seen",
        "deviation": "FlexiCubes' L_dev: vertices in the middle of the crossings of their patch",
        "opacity": "mean of rendered alpha: keeps the object from growing",
    }
    """Loss terms: the keys of `regularisers`."""

    kind: Literal["mesh"] = Field(default="mesh", description="kind of renderer")
    geometry: Literal["dmtet", "flexicubes", "fixed", "offsets"] = Field(
        default="flexicubes",
        description="dmtet: marching tetrahedra; flexicubes: dual marching cubes with weights, sharper; fixed: a given "
        "mesh, only its colours change; offsets: a given mesh whose vertices may move",
    )
    resolution: int = Field(default=64, ge=4, le=256, description="cells of the grid along a side")
    radius: float = Field(default=1.0, gt=0, le=4, description="half the side of the grid, world units")
    init: Annotated[str, start_from(SHAPES, FILE_ENDINGS)] = Field(
        default="sphere", max_length=1000, description="the surface at the start: sphere, or a mesh file"
    )
    init_radius: float = Field(default=0.5, gt=0, le=2, description="radius of that sphere, world units")
    init_size: float | None = Field(
        default=None, gt=0, le=2, description="centre the mesh of that file and scale it to this radius; null: as it is"
    )
    deform: bool = Field(default=True, description="whether nodes of the grid may move")
    texture: TextureConfig = Field(default_factory=TextureConfig, description="where colours are kept")
    shading: ShadingConfig = Field(default_factory=ShadingConfig, description="how the surface is lit")
    backend: Literal["auto", "reference", "cpu", "nvdiffrast", "pytorch3d"] = Field(
        default="auto", description="rasteriser; reference: plain torch, slow; 'doctor' lists them"
    )

    @model_validator(mode="after")
    def _texture_fits_geometry(self) -> SurfaceConfig:
        if self.texture.kind in ("vertices", "uv") and self.geometry not in ("fixed", "offsets"):
            raise ValueError(
                f"texture.kind '{self.texture.kind}' needs a mesh whose triangles stay, but geometry is '{self.geometry}'. "
                "Use geometry 'fixed' or 'offsets', or texture.kind 'grid' or 'field'."
            )
        if self.geometry == "fixed" and self.shading.kind == "normal":
            raise ValueError(
                "pictures of normals (shading.kind 'normal') show nothing of a mesh that does not move (geometry 'fixed') "
                "that could be trained. Use geometry 'offsets', or another shading.kind."
            )
        if self.geometry in ("dmtet", "flexicubes") and self.init_radius >= self.radius:
            raise ValueError(
                f"the sphere at the start has init_radius {self.init_radius:g}, but the grid ends at radius "
                f"{self.radius:g}. Make the sphere smaller."
            )
        return self

    @property
    def cites(self) -> tuple[str, ...]:
        """Works this renderer builds on, keys of `sds3d.citations`."""
        used = {
            "dmtet": self.geometry == "dmtet",
            "flexicubes": self.geometry == "flexicubes",
            "instant_ngp": self.texture.kind == "field",
        }
        return (*(key for key, is_used in used.items() if is_used), "nvdiffrast")
