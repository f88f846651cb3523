"""Configuration of distillation methods: one class a method, chosen by the key `method`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sds3d.schedule import Schedule, bounded

WeightName = Literal["sds", "uniform", "fantasia3d", "recon", "bsd", "kl", "dmd"]


class GuidanceConfig(BaseModel):
    """What all methods share; abstract, configure one of its subclasses."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = Field(description="name of the distillation method")
    guidance_scale: Schedule = Field(
        default=Schedule.constant(100.0),
        description="classifier-free guidance s in u + s (y - u), as in diffusers; 1 means none (threestudio's plus 1)",
    )
    weight: WeightName = Field(default="sds", description="weight w(t) of the residual")
    t_min: Annotated[Schedule, bounded(0, 1)] = Field(
        default=Schedule.constant(0.02), description="lower end of the time window, fraction of the prior's time axis"
    )
    t_max: Annotated[Schedule, bounded(0, 1)] = Field(
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
    clamp: Annotated[Schedule, bounded(low=0)] | None = Field(
        default=None, description="limit on each element of the weighted gradient; raise it with time (D-SDS)"
    )
    unit_norm: bool = Field(default=False, description="scale the gradient of the batch to length 1 (CSD)")
    non_finite: Literal["stop", "replace"] = Field(
        default="stop", description="at a NaN or infinity: stop the run, or use 0 there and count it in the log"
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


class SdsConfig(GuidanceConfig):
    """Score distillation sampling (DreamFusion)."""

    method: Literal["sds"] = "sds"


class MvdreamReconConfig(GuidanceConfig):
    """MVDream's x0-reconstruction loss with its rescaled guidance."""

    method: Literal["mvdream-recon"] = "mvdream-recon"
    guidance_scale: Schedule = Field(
        default=Schedule.constant(50.0), description="classifier-free guidance s in u + s (y - u), as in diffusers"
    )
    weight: WeightName = Field(default="recon", description="weight w(t) of the residual; 'recon' descends z0 - x0")
    group: int = Field(
        default=0,
        ge=0,
        description="views that share a timestep and one rescaling: 1 = each on its own, 0 = the whole batch",
    )
    rescale: Annotated[Schedule, bounded(0, 1)] = Field(
        default=Schedule.constant(0.5),
        description="how far the guided estimate is brought back to the spread of the unguided one (0 to 1)",
    )
    shared_t: bool = Field(
        default=True, description="whether the whole batch shares one timestep, whatever `group` says"
    )


AnyGuidance = Annotated[SdsConfig | MvdreamReconConfig, Field(discriminator="method")]
"""Field type of a recipe's `guidance:` block."""
