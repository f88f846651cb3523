"""Configuration of the Gaussian renderer. Names and meanings are those of `renderers.gaussians`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from sds3d.config.base import Config, start_from
from sds3d.schedule import Schedule

SHAPES = ("ball", "shell")
"""Clouds a run can start from without any file."""
FROM_VIEWS = "views"
"""The start that is fitted to pictures which the prior draws of the prompt."""
FILE_ENDINGS = (".ply", ".spz", ".splat", ".glb", ".obj", ".stl", ".off")
"""Endings of files a run can start from; whether the file is there is checked when a run begins."""


class DensityConfig(Config):
    """When Gaussians that do nothing are put to better use, or large ones are divided."""

    mode: Literal["off", "relocate", "default", "mcmc"] = Field(
        default="relocate",
        description="relocate: move faint ones onto opaque ones, count fixed; default: clone, split, prune and reset as "
        "in the 3DGS paper; mcmc: relocate, add 5 % a round up to max_count, shake the faint",
    )
    every: int = Field(default=50, ge=1, le=100_000, description="steps between two rounds")
    start: float = Field(default=0.1, ge=0, le=1, description="fraction of the run before the first round")
    stop: float = Field(default=0.8, ge=0, le=1, description="fraction of the run after the last round")
    min_opacity: float = Field(default=0.02, gt=0, lt=0.5, description="a fainter Gaussian is moved, or removed")
    max_count: int = Field(default=50_000, ge=2, le=10_000_000, description="never more Gaussians than this")
    grow_gradient: float = Field(
        default=2e-4, gt=0, le=1e6, description="default: mean image gradient above which a Gaussian is cloned or split"
    )
    absolute_gradient: bool = Field(
        default=False,
        description="default: sum absolute gradients (AbsGS); wants a larger grow_gradient, about 4 times",
    )
    grow_scale: float = Field(
        default=0.01, gt=0, le=10, description="default: up to this share of the camera distance clone, above it split"
    )
    prune_scale: float = Field(
        default=0.1, gt=0, le=10, description="default: larger than this share of the camera distance is removed"
    )
    radius_stop: float = Field(
        default=0, ge=0, le=1, description="default: fraction of the run in which the next two hold; 0: never"
    )
    grow_radius: float = Field(default=0.05, gt=0, le=10, description="share of the image above which one is split")
    prune_radius: float = Field(default=0.15, gt=0, le=10, description="share of the image above which one is removed")
    reset_every: int = Field(
        default=3000, ge=0, le=1_000_000, description="default: steps between resets of all opacities; 0: never"
    )
    pause_after_reset: int = Field(default=0, ge=0, le=1_000_000, description="default: no round so soon after a reset")
    revised_opacity: bool = Field(
        default=False, description="default: halves of a split one are together as opaque as it was"
    )
    noise_rate: float = Field(
        default=1e4, ge=0, le=1e9, description="mcmc: noise on positions, times the learning rate of means"
    )

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
        "opacity_mean": "mean opacity of the Gaussians themselves: lets density mode mcmc find dead ones",
        "scale_mean": "mean size of the Gaussians, world units: with opacity_mean, the terms of the MCMC paper",
        "scale": "Gaussians larger than renderer.largest_scale, and needles",
        "outside": "squared distance of centres beyond the unit sphere: keeps the object in view",
    }
    """Loss terms: the keys of `regularisers`."""

    kind: Literal["gaussians"] = Field(default="gaussians", description="kind of renderer")
    count: int = Field(
        default=4000, ge=2, le=10_000_000, description="Gaussians at the start; of a file of splats, all"
    )
    init: Annotated[str, start_from((*SHAPES, FROM_VIEWS), FILE_ENDINGS)] = Field(
        default="ball",
        max_length=1000,
        description="where they start: ball, shell, views (fitted to pictures that the prior draws of the prompt), or a file "
        "of splats (.ply, .spz, .splat, .glb), a mesh or points",
    )
    init_views: int = Field(
        default=8, ge=2, le=64, description="views: pictures around the object; for multi-view priors a multiple of 4"
    )
    init_steps: int = Field(default=300, ge=1, le=100_000, description="views: steps of the fit to those pictures")
    init_radius: float = Field(default=0.5, gt=0, le=2, description="radius of that ball, world units; of views too")
    init_size: float | None = Field(
        default=None,
        gt=0,
        le=2,
        description="centre the object of that file and scale it to this radius; null: as it is",
    )
    init_opacity: float = Field(
        default=0.1, gt=0, lt=1, description="opacity at the start, except of splats from a file"
    )
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

    @property
    def cites(self) -> tuple[str, ...]:
        """Works this renderer builds on, keys of `sds3d.citations`."""
        chosen = {"gaussian_mcmc": self.density.mode in ("relocate", "mcmc"), "gsplat": self.backend == "gsplat"}
        return ("gaussian_splatting", *(key for key, is_used in chosen.items() if is_used))
