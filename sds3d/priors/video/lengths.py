"""How many frames a video model takes, read from its configuration alone: before a run begins, not after its first stage."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sds3d.config import Recipe
    from sds3d.priors.source import Source
    from sds3d.priors.video.base import FrameRule

HALVINGS = ("temperal_downsample", "spatio_temporal_scaling")
"""Keys of the autoencoders of Wan (diffusers' spelling) and LTX: where they halve the number of frames."""


def check_lengths(recipe: Recipe) -> None:
    """Raise ConfigError if a stage that moves has a number of frames that one of its video priors does not take."""
    stages = [stage for _, stage in recipe.plan() if stage.motion is not None]
    if not stages:
        return
    from sds3d.priors.source import check_prior

    for stage in stages:
        assert stage.motion is not None
        for prior in (stage.prior, *(extra.prior for extra in stage.also)):
            source = check_prior(prior)
            rule = rule_of(source)
            if rule is not None:
                rule.check(stage.motion.frames, source.name)


def rule_of(source: Source) -> FrameRule | None:
    """Return the rule of a checked model; None for one of pictures, and where only its loaded network can say."""
    if source.family not in ("video", "motion_adapter", "toy_clips"):
        return None
    from sds3d.priors.video.base import FrameRule
    from sds3d.priors.video.families import ANIMATEDIFF, COGVIDEOX, STACKED
    from sds3d.priors.video.open import family_of

    if source.family == "toy_clips":
        from sds3d.toybox.clip_prior import MOST_FRAMES

        return FrameRule(most=MOST_FRAMES)
    if source.family == "motion_adapter":
        return FrameRule(most=json.loads((source.path / "config.json").read_text()).get("motion_max_seq_length", 32))
    assert source.folder is not None
    family, configs = family_of(source.folder), source.folder.configs
    if family is STACKED:
        stack = source.folder.metadata.frames
        return FrameRule(step=stack, most=stack)
    if family is ANIMATEDIFF:
        return FrameRule(most=configs["unet"].get("motion_max_seq_length", 32))
    if not family.is_causal:
        return FrameRule()
    vae = configs["vae"]
    stride = vae.get("scale_factor_temporal") or vae.get("temporal_compression_ratio")
    halved = next((vae[key] for key in HALVINGS if key in vae), None)
    stride = 2 ** sum(halved) if stride is None and halved is not None else stride
    return None if stride is None else FrameRule(stride=stride, first=1, step=stride * (1 + (family is COGVIDEOX)))
