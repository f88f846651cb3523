"""Evaluate finished runs: what a scorer says of the pictures, what the mesh is worth, what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from renderers.base import Renderer
from renderers.sketch.renderer import SketchRenderer
from sds3d.cameras import turntable
from sds3d.config import Recipe
from sds3d.errors import Sds3dError
from sds3d.export import FORMATS
from sds3d.metrics.images import colour_strength, psnr, ssim
from sds3d.metrics.mesh_health import mesh_health
from sds3d.metrics.prompt_lists import prompt_list
from sds3d.metrics.quality import FOVS_DEG, quality, quality_cameras
from sds3d.metrics.retrieval import r_precision
from sds3d.metrics.scorers import SCORERS, JudgeScorer, Scorer, missing_clip, missing_judge, open_scorer
from sds3d.metrics.turning import front_faces, opposite_likeness
from sds3d.metrics.words import words_of
from sds3d.run import RunFolder
from sds3d.toybox.palette import ASYMMETRIC
from systems.evaluation_references import WHITE, read_references
from systems.metrics import verdict
from systems.movement import still
from systems.pictures import draw

VIEWS, SIZE, GREY = 8, 128, 0.5
"""Turntable that colours, likeness of sides and retrieval are measured on."""
MESH_FORMATS = ("glb", "obj", "mesh_ply", "stl")
DRAWN = "drawings"
"""Name of the judge of strokes."""
DISTRACTORS = {"judge": "toybox264", "clip": "dreamfusion415", "imagereward": "dreamfusion415"}
"""The other prompts a picture might be mistaken for, by scorer."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What to evaluate with.

    Args:
        scorer: "auto" (ImageReward, else CLIP, of what is on this machine; the judge for words of the toybox), or a name.
        clip: folder or hub id of the CLIP model; empty: the first known one on this machine.
        distractors: name or file of a list of prompts for R-precision; empty: the one that suits the scorer.
        has_quality: whether T3Bench's 810 views are drawn.
    """

    scorer: str = "auto"
    clip: str = ""
    distractors: str = ""
    has_quality: bool = True


class Evaluator:
    """Evaluates runs one after another; models are loaded once. `prompts` are those of all runs, further distractors."""

    def __init__(self, choices: Choices | None = None, prompts: Sequence[str] = ()) -> None:
        self.choices = choices or Choices()
        self.prompts = tuple(dict.fromkeys(prompts))
        self._open: dict[str, Scorer] = {}
        if self.choices.scorer != "auto":
            self.scorer(self.choices.scorer)  # a wrong name shall not be found out after an hour
        if self.choices.clip:
            self.scorer("clip")
        if self.choices.distractors:
            prompt_list(self.choices.distractors)

    def scorer(self, name: str, renderer: Renderer | None = None) -> Scorer:
        """Return the scorer of that name, loaded at the first call; strokes have a judge of their own."""
        if name == "judge" and isinstance(renderer, SketchRenderer) and not missing_judge(DRAWN):
            name = DRAWN
        if name not in self._open:
            self._open[name] = JudgeScorer(name=DRAWN) if name == DRAWN else open_scorer(name, self.choices.clip)
        return self._open[name]

    @cached_property
    def _general(self) -> str:
        """The scorer on this machine for any prompt, "" if there is none."""
        here = {"imagereward": SCORERS["imagereward"](), "clip": missing_clip(self.choices.clip)}
        return next((name for name, reason in here.items() if not reason), "")

    def choose(self, prompt: str) -> str:
        """Return the name of the scorer for `prompt`, "" if there is none."""
        if self.choices.scorer != "auto":
            return self.choices.scorer
        if words_of(prompt) is not None and not SCORERS["judge"]():
            return "judge"
        return self._general

    def evaluate(self, run: RunFolder, reference: Path | None = None) -> dict[str, Any]:
        """Return the evaluation of the run's last checkpoint and of its files, as plain data.

        A part that cannot be measured is {"skipped": why}. Nothing is written.
        Raises: AssetError if the run has no checkpoint that can be read.
        """
        from systems.text_to_3d import trained

        recipe = run.read_recipe()
        renderer, stage = trained(recipe, run)
        renderer = still(renderer)
        prompt = recipe.prompt.text
        images, alpha = draw(renderer, turntable(VIEWS, SIZE, 20.0, sum(stage.cameras.distance) / 2), GREY)
        return {
            "prompt": prompt,
            "recipe": recipe.name,
            "seed": recipe.seed,
            "quality": self.quality(renderer, prompt),
            "clip": self.clip(renderer, prompt),
            "judge": self.judge(renderer, prompt),
            "turning": {"opposite_likeness": opposite_likeness(images.numpy())},
            "colour": colour_strength(images.numpy(), alpha.numpy()),
            "reference": compare(renderer, stage, reference),
            "mesh": mesh_of(run),
            "files": sizes_of(run),
            "times": times_of(run),
        }

    def quality(self, renderer: Renderer, prompt: str) -> dict[str, Any]:
        """Return T3Bench's quality in points, by the scorer that suits the prompt."""
        name = self.choose(prompt)
        if not self.choices.has_quality:
            return {"skipped": "not asked for (--no-quality)"}
        if not name:
            return {
                "skipped": f"no scorer for this prompt: {SCORERS['imagereward']()}; {missing_clip(self.choices.clip)}"
            }
        scorer = self.scorer(name, renderer)
        reason = scorer.refusal(prompt)
        if reason:
            return {"skipped": reason}
        images, _ = draw(renderer, quality_cameras(scorer.size), scorer.grey)
        points = scorer.points(scorer.table(images, [prompt])).reshape(-1, len(FOVS_DEG))
        return {"scorer": scorer.name, "views": len(images), **vars(quality(points))}

    def clip(self, renderer: Renderer, prompt: str) -> dict[str, Any]:
        """Return CLIP score and CLIP R-precision over turntable views."""
        reason = missing_clip(self.choices.clip)
        if reason:
            return {"skipped": reason}
        scorer = self.scorer("clip")
        return {"scorer": scorer.name, **self._retrieval(scorer, "clip", renderer, prompt)}

    def judge(self, renderer: Renderer, prompt: str) -> dict[str, Any]:
        """Return what the judge and the silhouette test say, with R-precision and the Janus measures."""
        result = verdict(renderer, prompt)
        if "skipped" in result:
            return result
        scorer = self.scorer("judge", renderer)
        assert isinstance(scorer, JudgeScorer)
        result |= self._retrieval(scorer, "judge", renderer, prompt)
        if result["noun"] in ASYMMETRIC:
            cameras = turntable(VIEWS, scorer.size)
            said = scorer.judge.verdict(draw(renderer, cameras, scorer.grey)[0])
            result |= front_faces(said["azimuth_deg"].numpy(), cameras.azimuth_deg.numpy())
        return result

    def _retrieval(self, scorer: Scorer, kind: str, renderer: Renderer, prompt: str) -> dict[str, Any]:
        """Return the mean points of the prompt, and R-precision among the distractors."""
        images = draw(renderer, turntable(VIEWS, scorer.size), scorer.grey)[0]
        named = self.choices.distractors or DISTRACTORS[kind]
        others = [text for text in dict.fromkeys((*prompt_list(named), *self.prompts)) if text != prompt]
        others = [text for text in others if not scorer.refusal(text)]
        table = scorer.table(images, [prompt, *others])
        return {
            "score": float(scorer.points(table[:, 0]).mean()),
            "r_precision": r_precision(table, np.zeros(len(table), np.int64)),
            "distractors": len(others),
        }


def compare(renderer: Renderer, recipe: Recipe, folder: Path | None) -> dict[str, Any]:
    """Return PSNR, SSIM and, if it is on this machine, LPIPS against the reference folder, the means over its pictures."""
    if folder is None:
        return {"skipped": "no --reference was given"}
    from sds3d.metrics.lpips_distance import lpips_distance, missing_lpips

    found = read_references(folder, recipe)
    pictures: Tensor = draw(renderer, found.cameras, WHITE)[0]
    pair = pictures.numpy(), found.pictures
    reason = missing_lpips()
    return {
        "folder": str(folder),
        "views": len(found.pictures),
        "psnr": float(psnr(*pair).mean()),
        "ssim": float(ssim(*pair).mean()),
        **({"lpips_skipped": reason} if reason else {"lpips": float(lpips_distance(*pair).mean())}),
    }


def mesh_of(run: RunFolder) -> dict[str, Any]:
    """Return the health of the run's mesh file, as another program finds it."""
    from sds3d.export.read_mesh import read_mesh

    files = [run.export / FORMATS[name].file_name for name in MESH_FORMATS]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return {"skipped": "the run has no mesh file; write one with: export RUN --format glb"}
    try:
        return {"file": file.name, **mesh_health(read_mesh(file)).as_dict()}
    except Sds3dError as error:
        return {"file": file.name, "skipped": str(error)}


def sizes_of(run: RunFolder) -> dict[str, int]:
    """Return the bytes of every file the run exported."""
    files = sorted(run.export.rglob("*")) if run.export.is_dir() else []
    return {file.relative_to(run.export).as_posix(): file.stat().st_size for file in files if file.is_file()}


def times_of(run: RunFolder) -> dict[str, Any]:
    """Return what run.json knows of the cost."""
    info = run.read_info()
    return {key: info[key] for key in ("seconds", "times", "peak_memory_gb") if info.get(key) is not None}
