"""The stages of radiance_to_pbr, and the kinds of parameters that they train."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from sds3d.config.base import Config
from sds3d.errors import nearest

STAGES = ("raw", "specular", "diffuse", "joint")
"""The stages that train; the visibility is baked between the second and the third."""
PARAMETERS = {
    "means": "centres, world units",
    "quats": "orientations",
    "log_scales": "logarithms of the three radii",
    "opacity_logits": "opacities before the sigmoid",
    "sh0": "baked colours, the part that is equal from all sides",
    "sh_rest": "baked colours, the part that changes with the side",
    "base_colour": "linear base colours before the sigmoid",
    "roughness": "roughness before the sigmoid",
    "metallic": "metalness before the sigmoid",
    "progress": "share of the physical picture, before the sigmoid",
    "light": "logarithms of the texels of the light map",
    "field": "on a mesh: features and network of the material and the progress",
    "raw_field": "on a mesh: features and network of the baked colours",
}
"""Kinds of parameters: the keys of learning rates."""


class StageConfig(Config):
    """One stage."""

    steps: int = Field(default=300, ge=0, le=1_000_000, description="optimiser steps; 0 leaves the stage out")
    rate_scale: dict[str, Annotated[float, Field(ge=0, le=1e4)]] = Field(
        default_factory=dict, description="factor on the learning rate of a kind of parameter; 0 freezes it"
    )

    @model_validator(mode="after")
    def _known(self) -> StageConfig:
        for name in self.rate_scale:
            if name not in PARAMETERS:
                raise ValueError(f"'{name}' is no kind of parameter. Did you mean {nearest(name, PARAMETERS)}?")
        return self


_STAGE_DEFAULTS: dict[str, dict[str, Any]] = {
    "raw": {"steps": 500, "rate_scale": {"sh0": 8.0, "sh_rest": 40.0, "raw_field": 20.0}},
    "specular": {"steps": 500},
    "diffuse": {"steps": 500},
    "joint": {"steps": 200, "rate_scale": {"progress": 0.3}},
}


def _stage(name: str) -> StageConfig:
    return StageConfig.model_validate(_STAGE_DEFAULTS[name])


class StagesConfig(Config):
    """The stages in their order. What a recipe leaves out of a stage has that stage's default."""

    raw: StageConfig = Field(
        default_factory=lambda: _stage("raw"), description="colours are baked: an ordinary radiance field"
    )
    specular: StageConfig = Field(
        default_factory=lambda: _stage("specular"), description="metals only: what reflects finds itself and its light"
    )
    diffuse: StageConfig = Field(
        default_factory=lambda: _stage("diffuse"), description="everything: progress is drawn to 1"
    )
    joint: StageConfig = Field(default_factory=lambda: _stage("joint"), description="the same, slower")

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        is_section = {name: isinstance(value, dict) and name in _STAGE_DEFAULTS for name, value in data.items()}
        return {name: {**_STAGE_DEFAULTS[name], **value} if is_section[name] else value for name, value in data.items()}
