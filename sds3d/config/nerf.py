"""Configuration of the volume renderers: radiance fields (`nerf`) and signed distance fields (`sdf`)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from sds3d.config.base import Config, start_from
from sds3d.config.surface import FILE_ENDINGS
from sds3d.schedule import Schedule

SHAPES = ("round",)
"""Objects a field can start from without any file."""
Resolution = Annotated[int, Field(ge=2, le=8192)]


class EncodingConfig(Config):
    """How a point becomes features for a small network."""

    kind: Literal["hash", "dense", "triplane", "frequency"] = Field(
        default="hash",
        description="hash: grids of several resolutions, the large ones in hash tables (instant-ngp); dense: the same "
        "without hashing; triplane: three planes; frequency: sines and cosines (NeRF)",
    )
    levels: int = Field(default=6, ge=1, le=24, description="resolutions, or octaves of the frequencies")
    channels: int = Field(default=2, ge=1, le=256, description="features a level, or of the planes")
    base_resolution: Resolution = Field(default=8, description="cells along an axis of the coarsest level")
    finest_resolution: Resolution = Field(
        default=128, description="cells along an axis of the finest level, or of the planes; papers: 2048 to 4096"
    )
    log2_table_size: int = Field(
        default=16, ge=8, le=24, description="hash: a level with more nodes than 2 to this shares rows; papers: 19"
    )
    start_levels: int = Field(
        default=0, ge=0, le=24, description="levels at the start, the finer ones come later; 0: all from the start"
    )
    steps_per_level: int = Field(default=200, ge=1, le=1_000_000, description="steps until the next level comes")

    @model_validator(mode="after")
    def _base_below_finest(self) -> EncodingConfig:
        if self.base_resolution > self.finest_resolution:
            raise ValueError(
                f"base_resolution must be <= finest_resolution, got {self.base_resolution} and "
                f"{self.finest_resolution}. Swap them."
            )
        return self


class SamplingConfig(Config):
    """Where along a ray the field is asked."""

    mode: Literal["occupancy", "uniform", "importance"] = Field(
        default="occupancy",
        description="occupancy: equal steps, only where a coarse grid says that something is; uniform: count samples "
        "on every ray; importance: coarse ones first, then count where those found something",
    )
    count: int = Field(
        default=64, ge=4, le=4096, description="samples a ray; occupancy: steps along the diagonal of the box"
    )
    coarse: int = Field(default=32, ge=4, le=1024, description="importance: samples of the first pass")
    chunk: int = Field(
        default=2**18,
        ge=256,
        le=2**28,
        description="samples held in memory at a time; more are done in chunks that are computed again for the gradient",
    )


class OccupancyConfig(Config):
    """The coarse grid that knows where the field is empty."""

    resolution: int = Field(default=32, ge=4, le=512, description="cells along an axis")
    every: int = Field(default=16, ge=1, le=100_000, description="steps between updates")
    decay: float = Field(default=0.95, ge=0, lt=1, description="factor on what is remembered, an update; nerf only")
    threshold: float = Field(
        default=0.01, gt=0, le=10, description="optical depth a step above which a cell is occupied; nerf only"
    )
    warm_up: int = Field(default=256, ge=0, le=1_000_000, description="steps in which updates look at every cell")
    share: float = Field(default=0.25, gt=0, le=1, description="share of the cells an update looks at afterwards")


class VolumeConfig(Config):
    """What radiance fields and signed distance fields have in common."""

    radius: float = Field(default=1.0, gt=0, le=10, description="half the side of the box the object lives in")
    encoding: EncodingConfig = Field(default_factory=EncodingConfig, description="from a point to features")
    init: Annotated[str, start_from(SHAPES, FILE_ENDINGS)] = Field(
        default="round",
        max_length=1000,
        description="the object at the start: round, or a mesh file the field learns first",
    )
    init_size: float | None = Field(
        default=None, gt=0, le=2, description="centre the mesh of that file and scale it to this radius; null: as it is"
    )
    hidden: int = Field(default=32, ge=4, le=1024, description="units of a hidden layer of the network")
    layers: int = Field(default=1, ge=0, le=12, description="hidden layers of the network")
    background: Literal["plain", "learnt", "none"] = Field(
        default="plain",
        description="plain: the colour the recipe draws; learnt: a network of the direction; none: black",
    )
    background_share: float = Field(
        default=0.5, ge=0, le=1, description="learnt: share of images that show it, the others have the plain colour"
    )
    sampling: SamplingConfig = Field(default_factory=SamplingConfig, description="where rays are sampled")
    occupancy: OccupancyConfig = Field(default_factory=OccupancyConfig, description="the grid of empty space")
    backend: Literal["auto", "torch", "nerfacc"] = Field(
        default="auto", description="packed weights: plain torch, any device, or nerfacc's CUDA kernels"
    )

    @property
    def _shared_cites(self) -> tuple[str, ...]:
        used = {
            "instant_ngp": self.encoding.kind in ("hash", "dense"),
            "mipnerf360": self.sampling.mode == "importance",
            "nerfacc": self.backend == "nerfacc",
        }
        return tuple(key for key, is_used in used.items() if is_used)


COMMON_TERMS = {
    "opacity": "mean of sqrt(alpha^2 + 0.01): keeps fog away",
    "entropy": "binary entropy of alpha: an image is object or background, nothing between",
    "distortion": "spread of the weights along a ray (Mip-NeRF 360): no floaters, thin surfaces",
    "z_variance": "variance of the distance along rays that hit something (HiFA): thin surfaces",
    "orientation": "visible normals that face away from the camera (Ref-NeRF)",
}


class NerfConfig(VolumeConfig):
    """A field of density and colour."""

    PARAMETERS: ClassVar[dict[str, str]] = {
        "encoding": "features in space",
        "network": "from features to density and colour",
        "background": "the learnt background, if there is one",
    }
    """Kinds of parameters: the keys of `optimiser.learning_rates`."""

    LEARNING_RATES: ClassVar[dict[str, Schedule]] = {
        "encoding": Schedule.constant(0.01),
        "network": Schedule.constant(0.005),
        "background": Schedule.constant(0.001),
    }
    """Default learning rates."""

    REGULARISERS: ClassVar[dict[str, str]] = dict(COMMON_TERMS)
    """Loss terms: the keys of `regularisers`."""

    kind: Literal["nerf"] = Field(default="nerf", description="kind of renderer")
    channels: Literal["rgb", "latent"] = Field(
        default="rgb",
        description="what points carry: colours, or the prior's latents, which are then judged without its encoder "
        "(Latent-NeRF); a stage with rgb after one with latent gets a linear layer from latents to colours",
    )
    density_activation: Literal["softplus", "exp"] = Field(
        default="softplus", description="from the network's number to a density; exp: DreamFusion"
    )
    blob: Literal["magic3d", "dreamfusion", "none"] = Field(
        default="magic3d",
        description="what is added before the activation, so that a run starts from a round cloud; dreamfusion adds 0 far "
        "from it: give density_bias about -5 with it, or the whole box starts as fog",
    )
    blob_scale: float = Field(default=10.0, ge=0, le=1000, description="its height; DreamFusion: 5")
    blob_radius: float = Field(default=0.5, gt=0, le=10, description="its size, world units; DreamFusion: 0.2")
    density_bias: float = Field(default=0.0, ge=-20, le=20, description="constant added before the activation")
    normals: Literal["none", "analytic", "finite"] = Field(
        default="none", description="also render normals (the term 'orientation' needs them); finite: by differences"
    )
    normal_step: float = Field(default=0.01, gt=0, le=1, description="finite: half the distance, world units")

    @property
    def cites(self) -> tuple[str, ...]:
        """Works this renderer builds on, keys of `sds3d.citations`."""
        return ("nerf", *self._shared_cites, *(("latent_nerf",) if self.channels == "latent" else ()))


class SdfConfig(VolumeConfig):
    """A field of signed distance and colour."""

    PARAMETERS: ClassVar[dict[str, str]] = {
        **NerfConfig.PARAMETERS,
        "network": "from features to distance and colour",
        "sharpness": "how fast density falls off at the surface, logarithm",
    }
    """Kinds of parameters: the keys of `optimiser.learning_rates`."""

    LEARNING_RATES: ClassVar[dict[str, Schedule]] = {
        **NerfConfig.LEARNING_RATES,
        "encoding": Schedule.constant(0.005),
        "sharpness": Schedule.constant(0.005),
    }
    """Default learning rates."""

    REGULARISERS: ClassVar[dict[str, str]] = {
        **COMMON_TERMS,
        "eikonal": "mean of (length of the distance's gradient - 1)^2: keeps it a distance",
    }
    """Loss terms: the keys of `regularisers`."""

    kind: Literal["sdf"] = Field(default="sdf", description="kind of renderer")
    rule: Literal["neus", "volsdf"] = Field(default="neus", description="from distance to opacity")
    init_radius: float = Field(default=0.5, gt=0, le=5, description="radius of the sphere at the start, world units")
    sharpness: float = Field(
        default=20.0, gt=0, le=1e5, description="at the start: NeuS's s, VolSDF's 1 / beta, per world unit"
    )
    anneal_steps: int = Field(
        default=0, ge=0, le=1_000_000, description="neus: steps in which surfaces seen from behind still learn"
    )

    @property
    def cites(self) -> tuple[str, ...]:
        """Works this renderer builds on, keys of `sds3d.citations`."""
        return (self.rule, *self._shared_cites)
