"""Configuration all distillation methods share; each method's own class stands beside its row. Imports no torch."""

from __future__ import annotations

from copy import copy
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sds3d.schedule import Schedule, bounded

WeightName = Literal["sds", "uniform", "fantasia3d", "recon", "bsd", "kl", "dmd", "velocity", "velocity-random"]
PixelFilterName = Literal["none", "pixel", "element", "global", "sigmoid", "element-soft", "pixel-soft"]
Fraction = Annotated[Schedule, bounded(0, 1)]


class GuidanceConfig(BaseModel):
    """What all methods share; abstract, configure one of its subclasses."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = Field(description="name of the distillation method")
    guidance_scale: Schedule = Field(
        default=Schedule.constant(100.0),
        description="classifier-free guidance s in u + s (y - u), as in diffusers; 1 means none (threestudio's plus 1)",
    )
    weight: WeightName = Field(default="sds", description="weight w(t) of the residual")
    gain: Annotated[Schedule, bounded(low=0)] = Field(
        default=Schedule.constant(1.0), description="factor on the gradient, beside which regularisers are weighed"
    )
    times: Literal["uniform", "dreamtime", "dreamtime-snr"] = Field(
        default="uniform",
        description="how timesteps are chosen in the window: at random, or falling as DreamTime has it (no draw)",
    )
    t_min: Fraction = Field(
        default=Schedule.constant(0.02), description="lower end of the time window, fraction of the prior's time axis"
    )
    t_max: Fraction = Field(
        default=Schedule.constant(0.98), description="upper end of the time window; lower it late for detail"
    )
    group: int = Field(
        default=1,
        ge=0,
        description="views that belong together and share a timestep: 1 = each on its own, 0 = the whole batch",
    )
    shared_t: bool = Field(
        default=False, description="whether the whole batch shares one timestep, whatever `group` says"
    )
    perp_neg: Annotated[Schedule, bounded(low=0)] | None = Field(
        default=None, description="strength of Perp-Neg against wrong views: 1 = threestudio's, 0.5 = ScaleDreamer's"
    )
    clamp: Annotated[Schedule, bounded(low=0)] | None = Field(
        default=None, description="limit on each element of the weighted gradient; raise it with time (D-SDS)"
    )
    unit_norm: bool = Field(default=False, description="scale the gradient of the batch to length 1 (CSD)")
    image_weight: Annotated[Schedule, bounded(low=0)] = Field(
        default=Schedule.constant(0.0),
        description="weight of the distance to the decoded clean estimate in pixels (HiFA); decodes each step if above 0",
    )
    pixel_filter: PixelFilterName = Field(
        default="none",
        description="what limits the gradient of the picture: pixel = pixel-wise gradient clipping (PGC)",
    )
    pixel_limit: Annotated[Schedule, bounded(low=0)] = Field(
        default=Schedule.constant(0.1), description="limit c of the pixel filter, for pictures in [0, 1] and one view"
    )
    pixel_norm: Literal["inf", "2"] = Field(
        default="inf", description="size of a pixel's gradient: largest channel (the public code) or length (the paper)"
    )
    non_finite: Literal["stop", "replace"] = Field(
        default="stop",
        description="at a NaN or infinity: stop the run; or use 0 there, count it, and stop above 1 % of the elements",
    )
    reduction: Literal["mean", "sum"] = Field(
        default="mean", description="over the views of a step; reference codes differ, and regularisers notice"
    )

    @model_validator(mode="after")
    def _check_window(self) -> GuidanceConfig:
        if min(self.t_max.values) < min(self.t_min.values) or max(self.t_max.values) < max(self.t_min.values):
            raise ValueError(
                f"the time window is empty: t_min takes {list(self.t_min.values)}, t_max {list(self.t_max.values)}. "
                "t_min must not be above t_max; exchange or correct them."
            )
        return self


class ScoreConfig(BaseModel):
    """The network that learns how the present renders look: the prior with a low-rank adapter and a camera."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rank: int = Field(default=4, ge=1, le=1024, description="rank of the adapter on every attention projection")
    learning_rate: Annotated[Schedule, bounded(0, 1)] = Field(
        default=Schedule.constant(1e-4), description="learning rate of its AdamW"
    )
    weight_decay: float = Field(default=0.01, ge=0, le=1, description="weight decay of its AdamW")
    camera_dropout: float = Field(
        default=0.1, ge=0, le=1, description="share of its training samples that do not know their camera"
    )
    weight: Annotated[Schedule, bounded(low=0)] = Field(
        default=Schedule.constant(1.0), description="factor on its training loss"
    )


def fall(first: float, last: float, until: float = 1.0, interpolation: str = "linear") -> Schedule:
    """Return a schedule from `first` to `last`, which it reaches at the fraction `until` of the run; for defaults."""
    points = [[0, first], [until, last]]
    return Schedule.model_validate({"clock": "fraction", "points": points, "interpolation": interpolation})


def default(field: str, value: Any) -> Any:
    """Return a copy of a field of `GuidanceConfig` with another default; numbers become schedules where those belong."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and field != "group":
        value = Schedule.constant(value)
    shared = GuidanceConfig.model_fields[field]
    changed = copy(shared)
    changed.default = value
    return changed
