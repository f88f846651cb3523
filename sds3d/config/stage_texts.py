"""What each stage of a recipe is told: the prompt, put as the bundled prior knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sds3d.config.prior import BUNDLED


def texts_of(text: str, stages: Mapping[str, Any], seed: int) -> dict[str, str]:
    """Return the prompt of each of the `stages` (`sds3d.config.recipe.Stage`) by name.

    Where a still stage asks the bundled prior, which never saw motion and hardly a caption without a colour:
    - it leaves out the toybox's words for motions, if a stage of the recipe moves;
    - a sketch that learns its colours is told one, if the prompt names none, and so are the other stages.
    """
    asked = {name for name, stage in stages.items() if stage.motion is None and stage.prior.path == BUNDLED}
    is_coloured = any(stages[name].renderer.kind == "sketch" and stages[name].renderer.colours for name in asked)
    moves = any(stage.motion is not None for stage in stages.values())
    if not asked or not (is_coloured or moves):
        return dict.fromkeys(stages, text)
    from sds3d.toybox.motion_words import with_colour, without_motion

    text = with_colour(text, seed) if is_coloured else text
    return {name: without_motion(text) if moves and name in asked else text for name in stages}
