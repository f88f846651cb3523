"""Configuration of motion: how points travel in time. Names and meanings are those of `renderers.motion`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from sds3d.config.base import Config
from sds3d.config.problems import KeyProblem
from sds3d.guidance.clips import ClipConfig
from sds3d.schedule import Schedule

BasisName = Literal["bspline", "polynomial", "fourier", "dct", "fenwick"]
_BASIS = (
    "functions of time: bspline (smooth, local), polynomial, fourier (repeats exactly), dct, fenwick (frames share "
    "parameters; long clips)"
)
_COUNT = "how many of them; null: what suits the clip's frames"


class SimilarityConfig(Config):
    """The shape-preserving part: the whole object turns, travels and, if allowed, grows."""

    basis: BasisName = Field(default="bspline", description=_BASIS)
    count: int | None = Field(default=None, ge=1, le=1000, description=_COUNT)
    scale: bool = Field(default=False, description="whether the object may grow and shrink as a whole")


class StillConfig(Config):
    """No deformation: the shape moves as one rigid piece."""

    kind: Literal["still"] = Field(default="still", description="kind of deformation field")


class DirectConfig(Config):
    """Every point has its own path. For strokes and up to some thousand points."""

    kind: Literal["direct"] = Field(default="direct", description="kind of deformation field")
    basis: BasisName = Field(default="bspline", description=_BASIS)
    count: int | None = Field(default=None, ge=1, le=1000, description=_COUNT)


class NodesConfig(Config):
    """A few control nodes turn and travel; points follow the nearest ones (linear blend skinning)."""

    kind: Literal["nodes"] = Field(default="nodes", description="kind of deformation field")
    nodes: int = Field(default=8, ge=1, le=4096, description="control nodes, spread over the object")
    nearest: int = Field(default=4, ge=1, le=64, description="nodes a point follows")
    basis: BasisName = Field(default="bspline", description=_BASIS)
    count: int | None = Field(default=None, ge=1, le=1000, description=_COUNT)


class HexplaneConfig(Config):
    """Six planes of features over pairs of x, y, z and time, then a small network. For dense clouds."""

    kind: Literal["hexplane"] = Field(default="hexplane", description="kind of deformation field")
    channels: int = Field(default=32, ge=1, le=256, description="features of a plane")
    resolution: int = Field(default=64, ge=2, le=512, description="cells along x, y and z of the coarsest planes")
    time_resolution: int = Field(default=25, ge=2, le=1000, description="cells along time; half the frames is usual")
    scales: tuple[int, ...] = Field(
        default=(1, 2, 4, 8), min_length=1, max_length=6, description="the spatial resolution is multiplied by each"
    )
    radius: float = Field(default=1.6, gt=0, le=100, description="half the box the planes cover, world units")
    hidden: int = Field(default=64, ge=1, le=1024, description="units of the network's hidden layer")
    shapes: bool = Field(default=True, description="also change scales and orientations of Gaussians")


class MlpConfig(Config):
    """A network of place and time."""

    kind: Literal["mlp"] = Field(default="mlp", description="kind of deformation field")
    octaves: int = Field(default=6, ge=0, le=16, description="octaves of the code of a place")
    time_octaves: int = Field(default=4, ge=0, le=16, description="octaves of the code of time")
    hidden: int = Field(default=64, ge=1, le=1024, description="units of a hidden layer")
    layers: int = Field(default=3, ge=0, le=16, description="hidden layers")
    shapes: bool = Field(default=False, description="also change scales and orientations of Gaussians")


AnyField = Annotated[StillConfig | DirectConfig | NodesConfig | HexplaneConfig | MlpConfig, Field(discriminator="kind")]
"""What may stand under `motion.field:`."""


class MotionConfig(Config):
    """Motion of points = similarity of the whole x (rest + deformation)."""

    PARAMETERS: ClassVar[dict[str, str]] = {
        "motion_rotation": "turning of the whole, radians",
        "motion_translation": "travel of the whole, world units",
        "motion_log_scale": "growth of the whole, natural logarithm",
        "motion_field": "the deformation: paths, nodes or networks",
        "motion_planes": "features of the deformation's planes (hexplane)",
    }
    """Kinds of parameters: keys of `optimiser.learning_rates`."""

    LEARNING_RATES: ClassVar[dict[str, Schedule]] = {
        "motion_rotation": Schedule.constant(0.01),
        "motion_translation": Schedule.constant(0.005),
        "motion_log_scale": Schedule.constant(0.005),
        "motion_field": Schedule.constant(6.4e-4),
        "motion_planes": Schedule.constant(6.4e-3),
    }
    """Default learning rates."""

    REGULARISERS: ClassVar[dict[str, str]] = {
        "motion_velocity": "mean squared step of a point between frames",
        "motion_acceleration": "mean squared change of that step: smooth paths",
        "motion_residual": "mean squared deformation",
        "motion_gauge": "rigid motion hidden in the deformation (for gauge: penalty)",
        "motion_loop": "mean squared distance between the first and the last frame",
        "motion_length": "relative change of the length of strokes or edges",
        "motion_arap": "neighbours that do not turn together (as rigid as possible)",
        "motion_rigidity": "neighbours that leave each other's turning frame between frames",
        "motion_moments": "change of the cloud's mean and variances (Align Your Gaussians)",
        "motion_plane_variation": "hexplane: differences of neighbouring cells",
        "motion_time_smoothness": "hexplane: second differences along time",
        "motion_time_planes": "hexplane: distance of the time planes from 1 (no motion)",
    }
    """Loss terms: keys of `regularisers`."""

    frames: int = Field(default=16, ge=2, le=1000, description="frames of the clip")
    fps: int = Field(default=8, ge=1, le=120, description="frames a second of written clips")
    loop: bool = Field(default=False, description="frame f is at f / frames, so that the last leads to the first again")
    reference: float = Field(default=0.0, ge=0, le=1, description="time at which everything is in its rest pose")
    similarity: SimilarityConfig = Field(default_factory=SimilarityConfig, description="motion of the whole")
    field: AnyField = Field(default_factory=DirectConfig, description="deformation")
    frozen: bool = Field(
        default=True, description="whether the asset itself stays as the stage before left it; false: it trains along"
    )
    azimuths_deg: tuple[Annotated[float, Field(ge=-360, le=360)], ...] = Field(
        default=(0.0, 90.0),
        max_length=64,
        description="sides from which clips are seen, in turn over the cameras.views clips of a step and from step to "
        "step; empty: all around, as pictures are",
    )
    azimuth_jitter_deg: float = Field(
        default=10.0, ge=0, le=180, description="a side is drawn anew within so many degrees, for all clips alike"
    )
    deferred: bool = Field(
        default=True,
        description="draw each frame again in the backward pass, so that memory holds the graph of one frame only",
    )
    clips: ClipConfig = Field(default_factory=ClipConfig, description="filters over the frames of a clip's gradient")
    gauge: Literal["project", "penalty", "none"] = Field(
        default="project",
        description="how the deformation is kept free of rigid motion: removed exactly, by the term motion_gauge, or not",
    )


MOVABLE = ("gaussians", "mesh", "sketch")
"""Kinds of renderers that are made of points."""


def check_movable(renderer: Any) -> None:
    """Raise KeyProblem if an asset of this configuration has no points that could move."""
    if renderer.kind not in MOVABLE:
        raise KeyProblem(
            "motion",
            f"'motion' is given, but an asset of kind '{renderer.kind}' has no points that could move. Use renderer.kind "
            f"{', '.join(MOVABLE[:-1])} or {MOVABLE[-1]}; a stage with one of them can begin with such an asset.",
        )
    if renderer.kind != "mesh":
        return
    if renderer.geometry not in ("fixed", "offsets") or renderer.texture.kind not in ("vertices", "uv"):
        raise KeyProblem(
            "motion",
            f"'motion' is given, but the mesh has geometry '{renderer.geometry}' and texture.kind "
            f"'{renderer.texture.kind}'; triangles and colours must belong to it. Set renderer.geometry to fixed or "
            "offsets and renderer.texture.kind to vertices or uv.",
        )
