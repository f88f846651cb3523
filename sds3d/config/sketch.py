"""Configuration of the sketch renderer. Names and meanings are those of `renderers.sketch`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from sds3d.config.base import Config, start_from
from sds3d.schedule import Schedule

SHAPES = ("sphere",)
"""Sketches a run can start from without any file."""
FILE_ENDINGS = (".json", ".svg", ".glb", ".obj", ".ply", ".stl", ".off")
"""Endings of files a run can start from; whether the file is there is checked when a run begins."""


def _colour_in_range(colour: tuple[float, float, float]) -> tuple[float, float, float]:
    if not all(0.0 <= value <= 1.0 for value in colour):
        raise ValueError(f"a colour is three numbers in [0, 1], got {list(colour)}. Divide 8-bit values by 255.")
    return colour


def _lengths_in_order(pair: tuple[float, float]) -> tuple[float, float]:
    if not 0 < pair[0] <= pair[1] <= 2:
        raise ValueError(
            f"init_length is [shortest, longest] with 0 < shortest <= longest <= 2, got {list(pair)}. Use [0.15, 0.3]."
        )
    return pair


class StrokeControlConfig(Config):
    """When strokes that do nothing are drawn again somewhere else."""

    mode: Literal["off", "redraw"] = Field(
        default="redraw", description="redraw: a dead stroke starts again near the stroke with the largest gradient"
    )
    every: int = Field(default=200, ge=1, le=100_000, description="steps between two rounds")
    start: float = Field(default=0.1, ge=0, le=1, description="fraction of the run before the first round")
    stop: float = Field(default=0.7, ge=0, le=1, description="fraction of the run after the last round")
    min_opacity: float = Field(default=0.05, ge=0, lt=1, description="a fainter stroke is dead")
    min_length: float = Field(default=0.03, ge=0, le=2, description="a shorter stroke is dead, world units")
    min_gradient: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description="a stroke is dead whose image gradient since the last round is below this share of the median",
    )
    max_share: float = Field(default=0.1, gt=0, le=1, description="share of the strokes drawn again in one round")
    merge_distance: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="strokes that lie so close together all along are merged, and one is free again; 0: never",
    )
    drop: bool = Field(default=True, description="whether dead strokes are removed after the last round")

    @model_validator(mode="after")
    def _start_before_stop(self) -> StrokeControlConfig:
        if self.start > self.stop:
            raise ValueError(f"start must be <= stop, got start {self.start:g} and stop {self.stop:g}. Swap them.")
        return self


class SketchConfig(Config):
    """Bezier strokes in space, drawn as ink on the background."""

    PARAMETERS: ClassVar[dict[str, str]] = {
        "points": "control points, world units",
        "half_widths": "half the widths of strokes, before a softplus",
        "opacities": "how much ink a stroke has, before the sigmoid",
        "colours": "colours before the sigmoid; only with colours: true",
        "weights": "logarithms of the weights of rational curves; only with rational: true",
    }
    """Kinds of parameters: the keys of `optimiser.learning_rates`; which of them there are depends on the settings."""

    LEARNING_RATES: ClassVar[dict[str, Schedule]] = {
        "points": Schedule(clock="fraction", points=((0.0, 0.005), (1.0, 0.0005))),
        "half_widths": Schedule.constant(0.002),
        "opacities": Schedule.constant(0.01),
        "colours": Schedule.constant(0.01),
        "weights": Schedule.constant(0.005),
    }
    """Default learning rates."""

    REGULARISERS: ClassVar[dict[str, str]] = {
        "bound": "squared distance of strokes beyond the unit sphere: keeps the sketch in view",
        "length": "squared length of strokes below 0.05 or above 1.5 world units",
        "bend": "bending of control polygons relative to their length: calm lines",
        "joint": "1 - cosine of the angle where segments of a stroke meet: no kinks",
        "ink": "mean opacity of strokes: fewer lines",
        "repel": "how close random places of different strokes come: no two lines for one",
        "opacity": "mean of rendered alpha: white paper",
    }
    """Loss terms: the keys of `regularisers`."""

    kind: Literal["sketch"] = Field(default="sketch", description="kind of renderer")
    count: int = Field(
        default=64, ge=1, le=10_000, description="strokes; 16: abstract, 96: detailed; of a sketch file, all"
    )
    segments: int = Field(default=1, ge=1, le=16, description="cubic segments a stroke")
    init: Annotated[str, start_from(SHAPES, FILE_ENDINGS)] = Field(
        default="sphere",
        max_length=1000,
        description="where strokes start: sphere (at random), a sketch (.json, .svg), or a mesh file, whose creases and "
        "outlines become strokes",
    )
    init_radius: float = Field(default=0.5, gt=0, le=2, description="radius of that sphere, world units")
    init_length: Annotated[tuple[float, float], AfterValidator(_lengths_in_order)] = Field(
        default=(0.15, 0.3), description="shortest and longest stroke at the start, world units"
    )
    init_size: float | None = Field(
        default=None,
        gt=0,
        le=2,
        description="centre the object of that file and scale it to this radius; null: as it is",
    )
    half_width: float = Field(
        default=0.012,
        gt=0,
        le=0.2,
        description="half the width of strokes at the start, world units; 0.012 is 1.5 pixels of 256 at the usual cameras",
    )
    init_opacity: float = Field(default=0.88, gt=0, lt=1, description="opacity of strokes at the start")
    colour: Annotated[tuple[float, float, float], AfterValidator(_colour_in_range)] = Field(
        default=(0.0, 0.0, 0.0), description="sRGB of the ink, in [0, 1]"
    )
    colours: bool = Field(default=False, description="whether each stroke learns a colour of its own")
    rational: bool = Field(default=False, description="whether strokes are rational curves with learned weights")
    samples: int = Field(default=16, ge=2, le=256, description="straight pieces a segment is drawn with")
    kernel: Literal["gauss", "smoothstep", "sigmoid"] = Field(
        default="gauss", description="profile of a line; smoothstep: as diffvg; sigmoid: long tails"
    )
    softness: Schedule = Field(
        default=Schedule(clock="fraction", points=((0.0, 2.0), (0.3, 0.5))),
        description="blur of lines in training, pixels; wide at first, so that misplaced strokes are pulled",
    )
    backend: Literal["auto", "dense", "culled"] = Field(
        default="auto", description="culled: compiled, for the CPU; dense: plain torch, any device, slow on a CPU"
    )
    control: StrokeControlConfig = Field(
        default_factory=StrokeControlConfig, description="when strokes are drawn again, merged and dropped"
    )

    @field_validator("softness")
    @classmethod
    def _softness_above_zero(cls, softness: Schedule) -> Schedule:
        if min(softness.values) <= 0:
            raise ValueError(f"softness must stay above 0 pixels, got {min(softness.values):g}. Use 0.5 or more.")
        return softness

    @property
    def cites(self) -> tuple[str, ...]:
        """Works this renderer builds on, keys of `sds3d.citations`."""
        used = {"diff3ds": self.rational, "viewcraft3d": self.init.lower().endswith(FILE_ENDINGS[2:])}
        return ("diffvg", "three_doodle", *(key for key, is_used in used.items() if is_used))
