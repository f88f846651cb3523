"""Layers of plain keys on top of each other: recipe file, overlays, arguments; once for every stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from sds3d.config.problems import shorten
from sds3d.config.recipe import Recipe, Stage
from sds3d.config.schema import Model, is_list, sections_of, variants
from sds3d.errors import ConfigError, nearest

FOR_MOTION = "for_motion"
"""Key of a layer: further keys for stages that move."""
FOR_CONDITIONS = "for_conditions"
"""Key of a layer: further keys for stages whose renderer draws condition pictures for ControlNets."""
FOR_RENDERER = "for_renderer"
"""Key of a layer, above all of an overlay: further keys for recipes whose renderer is of a certain kind."""
_SELECTORS = (FOR_RENDERER, FOR_CONDITIONS, FOR_MOTION)


@dataclass(frozen=True)
class Layer:
    """Some keys and where they came from; later layers win."""

    origin: str
    data: dict[str, Any]


def stacked(layers: Sequence[Layer]) -> dict[str, Any]:
    """Return the keys of all layers as one recipe, its stages complete.

    A stage is made as the recipe is, but every layer is followed by what it says of this very stage. So an overlay or
    `training.steps=10` holds for all stages, and `stages.texture.training.steps=10` for one.
    """
    merged: dict[str, Any] = {}
    names: dict[str, None] = {}
    for layer in layers:
        merged = _put(merged, layer, Recipe)
        names |= dict.fromkeys(_stages(layer))
    stages: dict[str, Any] = {}
    for name in names:
        stage: dict[str, Any] = {}
        for layer in layers:
            shared = {key: value for key, value in layer.data.items() if key in (*Stage.model_fields, *_SELECTORS)}
            for data in (shared, _stages(layer).get(name) or {}):
                stage = _put(stage, Layer(layer.origin, data), Stage)
        stages[name] = stage
    return {**merged, "stages": stages} if stages else merged


def _stages(layer: Layer) -> Mapping[str, Any]:
    """Return what a layer says of stages. Raises: ConfigError if that is no section of sections."""
    stages = layer.data.get("stages") or {}
    wrong = (
        stages if not isinstance(stages, dict) else next((s for s in stages.values() if not isinstance(s, dict)), None)
    )
    if wrong is not None:
        raise ConfigError(
            f"'stages' holds {shorten(wrong)}, but each stage is a section: a name and below it the keys that differ. "
            f"[{layer.origin}]",
            path="stages",
        )
    return stages


def _put(below: dict[str, Any], layer: Layer, model: Model) -> dict[str, Any]:
    """Return `below` with a layer on top, except its stages.

    With another kind of renderer all goes that meant the old one: its keys, and the sections named after its parameters
    and loss terms.
    """
    data = {key: value for key, value in layer.data.items() if key not in ("stages", *_SELECTORS)}
    if _kind(data, "") not in ("", _kind(below)):
        below = {key: value for key, value in below.items() if key not in ("renderer", "regularisers")}
        if isinstance(below.get("optimiser"), dict):
            below["optimiser"] = {key: rest for key, rest in below["optimiser"].items() if key != "learning_rates"}
    merged = merge(below, data, layer.origin, model)
    special = layer.data.get(FOR_RENDERER) or {}
    kinds = renderer_kinds()
    for kind in special:
        if kind not in kinds:
            raise ConfigError(
                f"'{FOR_RENDERER}.{kind}' is no kind of renderer: there is {nearest(str(kind), kinds)}. [{layer.origin}]",
                path=FOR_RENDERER,
            )
    merged = merge(merged, special.get(_kind(merged)) or {}, layer.origin, model)
    drawn = merged.get("renderer")
    if isinstance(drawn, dict) and drawn.get("conditions"):
        merged = merge(merged, layer.data.get(FOR_CONDITIONS) or {}, layer.origin, model)
    moves = isinstance(merged.get("motion"), dict)
    return merge(merged, layer.data.get(FOR_MOTION) or {}, layer.origin, model) if moves else merged


def renderer_kinds() -> list[str]:
    """Return the kinds of renderers a recipe may choose from."""
    field = Stage.model_fields["renderer"]
    return list(variants(field)) or ["gaussians"]


def _kind(data: Mapping[str, Any], default: str = "gaussians") -> str:
    """Return the kind of renderer that some keys name."""
    renderer = data.get("renderer")
    return str(renderer.get("kind", default)) if isinstance(renderer, dict) else default


def merge(
    below: Mapping[str, Any], above: Mapping[str, Any], origin: str, model: Model | None, path: str = ""
) -> dict[str, Any]:
    """Return `below` with the keys of `above` on top: sections merge, everything else (schedules, lists) replaces.

    Where `model` knows a section to have variants and `above` chooses another, keys only the old one has are dropped.
    A section given where there is a list of sections (`also`) changes each of them.
    """
    merged = dict(below)
    for key, value in above.items():
        here = f"{path}.{key}" if path else str(key)
        if not isinstance(key, str):
            raise ConfigError(f"The key {here} is not text: keys are names. Correct it. [{origin}]", path=here)
        old = merged.get(key)
        field = model.model_fields.get(key) if model is not None else None
        sections = sections_of(field) if field is not None else []
        if isinstance(value, dict) and sections and is_list(field):  # one section for a list: it holds for each of them
            items = old if isinstance(old, list | tuple) else []
            merged[key] = [merge(item, value, origin, sections[0], here) for item in items if isinstance(item, dict)]
        elif not isinstance(value, dict) or _is_schedule(value) or old is None:
            merged[key] = value
        elif isinstance(old, dict):
            kept = _of_variant(old, value, field) if field is not None else old
            merged[key] = merge(kept, value, origin, sections[0] if len(sections) == 1 else None, here)
        else:
            raise ConfigError(
                f"'{here}' holds a value ({shorten(old)}), not a section, so '{here}.{next(iter(value), '')}' "
                f"cannot be set. Set '{here}' itself. [{origin}]",
                path=here,
            )
    return merged


def _of_variant(old: dict[str, Any], new: dict[str, Any], field: FieldInfo) -> dict[str, Any]:
    """Return the keys of `old` that the variant chosen by `new` also has; all of them if it stays the same."""
    tag = str(field.discriminator)
    chosen = variants(field).get(str(new.get(tag)))
    if chosen is None or new.get(tag) == old.get(tag):
        return old
    return {key: value for key, value in old.items() if key in chosen.model_fields}


def _is_schedule(value: dict[str, Any]) -> bool:
    return "points" in value and "clock" in value
