"""The numbers of metrics.json: how training went, and what the judge says about the asset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from renderers.base import Renderer
from renderers.sketch.renderer import SketchRenderer
from sds3d.cameras import turntable
from sds3d.metrics.words import words_of
from sds3d.run import RunFolder
from sds3d.toybox.palette import ASYMMETRIC, COLORS, NOUNS
from systems.pictures import draw

if TYPE_CHECKING:
    from systems.base import DistillationSystem

VIEWS, SIZE, GREY = 8, 64, 0.5
"""Views around the object, and the background the judge's scores are measured on."""


def record_training(run: RunFolder, system: DistillationSystem) -> None:
    """Write the numbers of a stage to metrics.json; where there are several, each has its own entry in `stages`."""
    numbers = training_metrics(system)
    if system.name_of_stage:
        stages = {**run.read_metrics().get("stages", {}), system.name_of_stage: numbers}
        run.update_metrics(seed=system.recipe.seed, stages=stages, final=numbers["final"])
    else:
        run.update_metrics(**numbers)


def training_metrics(system: DistillationSystem) -> dict[str, Any]:
    """Return the numbers of the training: a row for about every hundredth part of the run, and where it stands.

    No times: with the same seed on the same machine the result repeats bit by bit.
    """
    size = {"parameters": sum(parameter.numel() for parameter in system.renderer.parameters())}
    if system.recipe.renderer.kind == "gaussians":
        size = {"gaussians": len(next(iter(system.renderer.parameters())))}
    if isinstance(system.renderer, SketchRenderer):
        size["strokes"] = int(system.renderer.alive.sum())
    newest = {name: value for row in system.history for name, value in row.items() if name != "step"}
    final = {"steps_done": system.steps_done, **size, **newest}
    return {"seed": system.recipe.seed, "steps": system.history, "final": {**final, **size}}


def verdict(renderer: Renderer, prompt: str) -> dict[str, Any]:
    """Return what the judge and the silhouette test say about the asset, as plain data.

    Over `VIEWS` turntable views (64 px, elevation 20): noun_accuracy and color_accuracy, the share recognised as the
    prompt's words; azimuth_within_45, the share whose azimuth is told within 45 degrees, None for nouns that look alike
    all round; silhouette_rank, the place of the noun among all nouns by outline (1 is best), and silhouette_iou.
    "skipped" says why something is missing.
    Strokes are judged by the judge of drawings ("judged_as": "drawings"); their silhouette is what their ink covers.
    Limits: the judge must choose among its words and is easily pleased; that is why the outline stands beside it.
    """
    wanted = words_of(prompt)
    if wanted is None:
        return {"skipped": "the prompt does not name exactly one noun and one colour of the toybox"}
    from sds3d.metrics.silhouette import silhouette_rank
    from sds3d.toybox.judge import DRAWN, SHADED, default_judge

    noun, colour = wanted
    cameras = turntable(VIEWS, SIZE)  # what judge and silhouette test were made for, whatever the recipe trained with
    images, alpha = draw(renderer, cameras, GREY)
    rank, overlap = silhouette_rank(alpha[..., 0].numpy(), noun)
    result = {"noun": noun, "color": colour, "views": VIEWS, "silhouette_rank": rank, "silhouette_iou": overlap}
    judge = DRAWN if isinstance(renderer, SketchRenderer) else SHADED
    result |= {"judged_as": judge} if judge != SHADED else {}
    if not (default_judge() / f"{judge}.safetensors").is_file():
        return {**result, "skipped": "the judge (assets/judge) is not installed"}
    return {**result, **_judged(images, cameras.azimuth_deg, noun, colour, judge)}


def _judged(images: Tensor, azimuth_deg: Tensor, noun: str, colour: str, judge: str) -> dict[str, Any]:
    from sds3d.toybox.judge import azimuth_error, load_judge

    said = load_judge(name=judge).verdict(images)
    nouns = [NOUNS[index] for index in said["noun"].tolist()]
    colours = [list(COLORS)[index] for index in said["color"].tolist()]
    near = (azimuth_error(said["azimuth_deg"], azimuth_deg) <= 45.0).float().mean()
    return {
        "noun_accuracy": nouns.count(noun) / len(nouns),
        "color_accuracy": colours.count(colour) / len(colours),
        "azimuth_within_45": float(near) if noun in ASYMMETRIC else None,
        "said_nouns": nouns,
        "said_colors": colours,
    }
