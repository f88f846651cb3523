"""Who judges clips, and from where they are seen: one place a clip, the same in all of its frames."""

from __future__ import annotations

import torch
from torch import Tensor

from sds3d.cameras import Cameras, orbit, sample_orbit
from sds3d.config import Recipe
from sds3d.errors import ConfigError
from sds3d.guidance.clips import ClipGuidance
from sds3d.guidance.config import GuidanceConfig
from sds3d.priors.video.base import VideoPrior


def clip_guidance(prior: VideoPrior, config: GuidanceConfig, recipe: Recipe) -> ClipGuidance:
    """Return a method applied to a prior of clips for a stage that moves.

    Raises: ConfigError if nothing moves in the stage, or the prior does not take so many frames.
    """
    if recipe.motion is None:
        raise ConfigError(
            f"The prior '{prior.name}' judges clips, but in this stage nothing moves. Give the stage a section 'motion', "
            "or use a prior of pictures.",
            path="motion",
        )
    return ClipGuidance(prior, config, recipe.training.steps, recipe.motion.clips, recipe.motion.frames)


def draw_clip_views(recipe: Recipe, generator: torch.Generator, size: int, step: int) -> tuple[Cameras, Tensor]:
    """Return V F cameras of `size` pixels, frames of a clip together, and the background [V F, 3] behind each.

    The `motion.azimuths_deg` take turns over the V = `cameras.views` clips of a step and from step to step, all turned
    by the same draw within `motion.azimuth_jitter_deg`; without them clips are seen as pictures are. Clips of one step
    have the same height and distance, so that they differ in the side alone, and one background.
    """
    cameras, motion, background = recipe.cameras, recipe.motion, recipe.background
    assert motion is not None
    draws = torch.rand(3, generator=generator)
    if motion.azimuths_deg:
        sides = [
            motion.azimuths_deg[(step * cameras.views + k) % len(motion.azimuths_deg)] for k in range(cameras.views)
        ]
        azimuth = torch.tensor(sides) + motion.azimuth_jitter_deg * (2.0 * draws[0] - 1.0)
        low, high = cameras.elevation_deg
        near, far = cameras.distance
        elevation = (low + (high - low) * draws[1]).expand(len(sides))
        distance = (near + (far - near) * draws[2]).expand(len(sides))
        views = orbit(azimuth, elevation, distance, cameras.fov_deg, size, size)
    else:
        views = sample_orbit(
            cameras.views, size, generator, cameras.elevation_deg, cameras.distance, cameras.fov_deg, 1
        )
    is_plain = torch.rand((), generator=generator) < background.random_fraction
    colour = torch.rand(1, 3, generator=generator)
    behind = torch.where(is_plain, colour, torch.full_like(colour, background.grey)).expand(len(views), 3)
    repeat = torch.arange(len(views)).repeat_interleave(motion.frames)
    return views[repeat], behind[repeat]
