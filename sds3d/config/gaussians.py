"""Configuration of the Gaussian renderer. Names and meanings are those of `renderers.gaussians`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from sds3d.config.base import Config
from sds3d.schedule import Schedule


class DensityConfig(Config):
    """When Gaussians that do nothing are put to better use, or large ones are divided."""

    mode: Literal["off", "relocate", "grow"] = Field(
        default="relocate",
        description="relocate: move faint ones onto opaque ones, count fixed; grow: clone and split where it is needed",
    )
    every: int = Field(default=50, ge=1, le=100_000, description="steps between two rounds")
    start: float = Field(default=0.1, ge=0, le=1, description="fraction of the run before the first round")
    stop: float = Field(default=0.8, ge=0, le=1, description="fraction of the run after the last round")
    min_opacity: float = Field(default=0.02, gt=0, lt=1, description="a fainter Gaussian is moved, or removed by grow")
    grow_gradient: float = Field(
        default=2e-4, gt=0, le=1e6, description="grow: mean image gradient above which a Gaussian is cloned or split"
    )
    max_count: int = Field(default=50_000, ge=2, le=10_000_000, description="grow: never more Gaussians than this")

    @model_validator(mode="after")
    def _start_before_stop(self) -> DensityConfig:
        if self.start > self.stop:
            raise ValueError(f"start must be <= stop, got start {self.start:g} and stop {self.stop:g}. Swap them.")
        return self


class GaussiansConfig(Config):
    """A cloud of coloured Gaussians."""

    PARAMETERS: ClassVar[dict[str, str]] = {
        "means": "centres, world units",
        "quats": "orientations",
        "log_scales": "logarithms of the three radii",
        "opacity_logits": "opacities before the sigmoid",
        "sh0": "colours",
    }
    """Kinds of parameters: the keys of `optimiser.learning_rates`."""

    LEARNING_RATES: ClassVar[dict[str, Schedule]] = {
        "means": Schedule(clock="fraction", points=((0.0, 0.01), (1.0, 0.002))),
        "quats": Schedule.constant(0.005),
        "log_scales": Schedule.constant(0.01),
        "opacity_logits": Schedule.constant(0.05),
        "sh0": Schedule.constant(0.02),
    }
    """Default learning rates."""

    REGULARISERS: ClassVar[dict[str, str]] = {
        "opacity": "mean of rendered alpha: keeps fog away",
        "binary": "mean of alpha (1 - alpha): an image is object or background, nothing between",
        "variation": "difference of neighbouring pixels' alpha: smooths silhouettes",
        "scale": "Gaussians larger than renderer.largest_scale, and needles",
        "outside": "squared distance of centres beyond the unit sphere: keeps the object in view",
    }
    """Loss terms: the keys of `regularisers`."""

    kind: Literal["gaussians"] = Field(default="gaussians", description="kind of renderer")
    count: int = Field(default=4000, ge=2, le=10_000_000, description="Gaussians at the start")
    init: Literal["ball", "shell"] = Field(default="ball", description="where they start: in a ball or on its surface")
    init_radius: float = Field(default=0.5, gt=0, le=2, description="radius of that ball, world units")
    init_opacity: float = Field(default=0.1, gt=0, lt=1, description="opacity at the start")
    largest_scale: float = Field(
        default=0.1, gt=0, le=2, description="world units a Gaussian may measure before the regulariser 'scale' counts"
    )
    rasterize_mode: Literal["classic", "antialiased"] = Field(
        default="classic", description="antialiased: for assets seen at other sizes than they were trained at"
    )
    backend: Literal["auto", "reference", "cpu", "gsplat"] = Field(
        default="auto", description="rasteriser; reference: plain torch, any device; gsplat: CUDA; 'doctor' lists them"
    )
    density: DensityConfig = Field(default_factory=DensityConfig, description="density control")
