"""The stages of radiance_to_pbr as a table: what each trains, and at which step it begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sds3d.config.materials import MaterialsConfig
from sds3d.config.materials_stages import PARAMETERS, STAGES

GEOMETRY = ("means", "quats", "log_scales", "opacity_logits")
_MATERIALS = ("base_colour", "roughness", "metallic", "progress", "light", "field")
_BAKED = ("sh0", "sh_rest", "raw_field")

FROZEN: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "progressive": {"raw": _MATERIALS, "specular": ("metallic",), "diffuse": (), "joint": ()},
    "physics": dict.fromkeys(STAGES, (*_BAKED, "progress")),
    "radiance": dict.fromkeys(STAGES, _MATERIALS),
}
"""Method -> stage -> kinds of parameters that do not change in it."""


@dataclass(frozen=True)
class Stage:
    """One stage: steps `start` (included) to `stop` (excluded) of the run.

    Args:
        frozen: kinds of parameters that stay as they are. rate_scale: factor on the rates of others.
        progress: stands in for the progress map, or None. metallic: stands in for all metalness, or None.
        draws: whether progress is drawn to 1 and the light to white.
    """

    name: str
    start: int
    stop: int
    frozen: frozenset[str]
    rate_scale: Mapping[str, float]
    progress: float | None
    metallic: float | None
    draws: bool


def plan(config: MaterialsConfig) -> list[Stage]:
    """Return the stages of a run that have steps, in their order."""
    stages, start = [], 0
    for name in STAGES:
        settings = getattr(config.stages, name)
        is_specular = config.method == "progressive" and name == "specular"
        fixed = {"radiance": 0.0, "physics": 1.0}.get(config.method, 0.0 if name == "raw" else None)
        stage = Stage(
            name=name,
            start=start,
            stop=start + settings.steps,
            frozen=frozenset(FROZEN[config.method][name]),
            rate_scale=settings.rate_scale,
            progress=fixed,
            metallic=1.0 if is_specular else None,
            draws=config.method == "physics" or (config.method == "progressive" and name in ("diffuse", "joint")),
        )
        start = stage.stop
        if settings.steps:
            stages.append(stage)
    return stages


def rates(config: MaterialsConfig, stage: Stage, step: int) -> dict[str, float]:
    """Return the learning rate of every kind of parameter at a step of the run; 0 is frozen.

    In the first part of stage specular the physical picture may turn Gaussians but not move them: pictures of a light that
    is still wrong would tear the surface.
    """
    held = GEOMETRY if _is_held(config, stage, step) else ()
    free = [name for name in PARAMETERS if name not in stage.frozen and (name not in held or name == "quats")]
    scale = stage.rate_scale
    return {
        name: config.learning_rates[name].at(step, config.total_steps) * scale.get(name, 1.0) if name in free else 0.0
        for name in PARAMETERS
    }


def _is_held(config: MaterialsConfig, stage: Stage, step: int) -> bool:
    if config.method != "progressive" or stage.name != "specular":
        return False
    return step - stage.start < config.shading.detached_geometry * (stage.stop - stage.start)


def apply_rates(optimiser: Any, values: Mapping[str, float]) -> None:
    """Give each group of an optimiser its rate; what has none gets no gradient either, so that nothing of it moves."""
    for group in optimiser.param_groups:
        rate = values[group["name"]]
        group["lr"] = rate
        for parameter in group["params"]:
            parameter.requires_grad_(rate > 0.0)
            if rate == 0.0:
                parameter.grad = None
