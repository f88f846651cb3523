"""Two balls from an exact teacher: the smallest training of a generator of shapes, to see whether training is stable."""

from __future__ import annotations

from typing import Any

import torch

from renderers.triplane import render_volume
from sds3d.config.generator import GeneratorRecipe
from sds3d.generators.base import Planes
from sds3d.generators.progress import sample
from sds3d.generators.tiny import TinyTriplaneGenerator
from sds3d.generators.toys import BALLS, ball_picture, ball_prior
from systems.generator_core import GeneratorCore, PromptList
from systems.randomness import generator_for

BALL_TEXTS = list(BALLS)
BALL_STEPS = 200
SIZE = 16
"""Side of the pictures the teacher sees, pixels."""
FINE_SAMPLES = 48
"""Points a ray of pictures that are measured."""


def ball_recipe(seed: int = 0, **changes: Any) -> GeneratorRecipe:
    """Return the recipe of the two balls; `changes` replace keys of its first level."""
    guidance = {"method": "mvdream-recon", "guidance_scale": 1, "rescale": 0, "group": 1, "shared_t": False}
    data: dict[str, Any] = {
        "base": None,
        "seed": seed,
        "network": {"kind": "tiny", "channels": 16, "split": False, "hidden": 32, "latent_size": 4},
        "teachers": ({"guidance": guidance},),
        "views": ({"kind": "volume", "size": SIZE, "volume": {"samples": 16, "sharpness": 20, "field": "grid"}},),
        "cameras": {"views": 2, "distance": [2.5, 2.5], "elevation_deg": [0, 30]},
        "background": {"random_fraction": 0, "grey": 1},
        "optimiser": {
            "learning_rate": {"clock": "fraction", "points": [[0, 2e-4], [0.08, 2e-3], [0.5, 2e-3], [1, 1e-4]]},
            "clip": 1,
        },
        "training": {"steps": BALL_STEPS, "batch": 2},
    }
    return GeneratorRecipe.model_validate({**data, **changes})


def ball_core(recipe: GeneratorRecipe) -> GeneratorCore:
    """Return what trains a generator of the two balls; its first weights follow from the recipe's seed."""
    prior = ball_prior(SIZE)
    generator = TinyTriplaneGenerator(recipe.network, prior.levels, 1, generator_for(recipe.seed, "start"))
    return GeneratorCore(recipe, generator, [prior], prior.text, PromptList(BALL_TEXTS))


@torch.no_grad()
def ball_results(core: GeneratorCore) -> dict[str, dict[str, float]]:
    """Return for each prompt the overlap of outlines (intersection over union) and the mean squared error of the picture, at the
    teacher's resolution, and "fine_overlap" at twice that, which the teacher never sees."""
    draws = torch.Generator().manual_seed(5)
    assets = core.generator.decode(sample(core.generator, core.text_of(BALL_TEXTS), core.recipe.turns, draws))
    assert isinstance(assets, Planes)  # what a tiny generator makes
    cameras, background = core.draw_cameras(len(BALL_TEXTS), draws)
    first = slice(None, None, core.recipe.cameras.views)
    own = core.recipe.views[0].volume
    volume = own.model_copy(update={"samples": FINE_SAMPLES, "keep_surface": False})
    results: dict[str, dict[str, float]] = {text: {} for text in BALL_TEXTS}
    for size, name in ((SIZE, "overlap"), (2 * SIZE, "fine_overlap")):
        render = render_volume(assets, cameras.resized(size)[first], background[first], volume)
        for number, text in enumerate(BALL_TEXTS):
            wanted, covered = ball_picture(*BALLS[text], size)
            found, outline = render.alpha[number] > 0.5, covered > 0.5
            results[text][name] = float((found & outline).sum() / (found | outline).sum())
            if size == SIZE:
                results[text]["squared_error"] = float((render.rgb[number] - wanted).square().mean())
    return results
