"""The table of distillation methods: each is data. Imports no torch, so that the command line can print it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from sds3d.guidance.branches import BASELINE, PROMPTED
from sds3d.guidance.config import GuidanceConfig, MvdreamReconConfig, SdsConfig
from sds3d.guidance.noisers import GaussianNoiser, Noiser
from sds3d.guidance.rules import Linear, Reconstruction, Rule

Requirement = Literal["negative prompt", "source prompt", "trained score network"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of the table.

    Args:
        config: its configuration class; the defaults in it are the method's own.
        noiser: makes the noisy points.
        rule: makes the residual rule from a configuration.
        evals: network evaluations per image and step with default settings, guidance branches counted singly.
        needs: what a run must bring besides a prior and a prompt.
        paper, arxiv: where it was published.
        source: public repository whose numbers were followed.
    """

    config: type[GuidanceConfig]
    noiser: Callable[[], Noiser]
    rule: Callable[[Any], Rule]
    evals: int
    needs: frozenset[Requirement] = frozenset()
    paper: str
    arxiv: str
    source: str


def _sds(config: SdsConfig) -> Linear:
    scale = config.guidance_scale
    return Linear({PROMPTED: scale, BASELINE: 1.0 - scale, "eps": -1.0})


def _mvdream_recon(config: MvdreamReconConfig) -> Reconstruction:
    return Reconstruction(config.guidance_scale, config.rescale, config.group)


METHODS: dict[str, Method] = {
    "sds": Method(
        config=SdsConfig,
        noiser=GaussianNoiser,
        rule=_sds,
        evals=2,
        paper="DreamFusion: Text-to-3D using 2D Diffusion",
        arxiv="2209.14988",
        source="threestudio-project/threestudio",
    ),
    "mvdream-recon": Method(
        config=MvdreamReconConfig,
        noiser=GaussianNoiser,
        rule=_mvdream_recon,
        evals=2,
        paper="MVDream: Multi-view Diffusion for 3D Generation",
        arxiv="2308.16512",
        source="bytedance/MVDream-threestudio",
    ),
}
