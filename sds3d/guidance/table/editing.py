"""Methods that move from one text or picture to another: SDS-Bridge, DDS, PDS, editing by classifier scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sds3d.guidance.branches import BASELINE, PROMPTED, UNPROMPTED, Branch, Evidence
from sds3d.guidance.config import Fraction, GuidanceConfig, WeightName, default
from sds3d.guidance.method import Method
from sds3d.guidance.noisers import EarlierNoiser
from sds3d.guidance.rules import Linear, Staged, value_of
from sds3d.schedule import Schedule

if TYPE_CHECKING:
    from torch import Tensor

SOURCE = Branch("src", point="src")
SOURCE_BASELINE = BASELINE.at("src")


class BridgeConfig(GuidanceConfig):
    """SDS-Bridge: first SDS, then from what the render looks like now to what it should look like."""

    method: Literal["bridge"] = "bridge"
    weight: WeightName = default("weight", "uniform")
    switch: float = Field(
        default=0.8, ge=0, le=1, description="fraction of the run after which the bridge replaces SDS; 0 = bridge only"
    )
    bridge_scale: Schedule = Field(
        default=Schedule.constant(1.0), description="factor of the bridge's direction (1 in 3D, 40 in 2D)"
    )


class DdsConfig(GuidanceConfig):
    """Delta denoising score: what the new text wants of the picture minus what the old text wants of the old one."""

    method: Literal["dds"] = "dds"
    guidance_scale: Schedule = default("guidance_scale", 7.5)
    weight: WeightName = default("weight", "uniform")
    t_min: Fraction = default("t_min", 0.05)
    t_max: Fraction = default("t_max", 0.948)


class PdsConfig(GuidanceConfig):
    """Posterior distillation sampling: DDS and a pull back to the old picture, from the step of a sampler."""

    method: Literal["pds"] = "pds"
    weight: WeightName = default("weight", "uniform")
    stride: int = Field(
        default=2,
        ge=1,
        le=100,
        description="timesteps of the sampler's step; at 1 the pull to the old picture vanishes",
    )


class CsdEditConfig(GuidanceConfig):
    """Classifier score distillation for editing: towards the new text, away from the old one."""

    method: Literal["csd-edit"] = "csd-edit"
    towards: Schedule = Field(default=Schedule.constant(1.0), description="factor of the new text's direction, y - 0")
    away: Schedule = Field(default=Schedule.constant(0.5), description="factor of the old text's direction, src - 0")


def _csd_edit(config: CsdEditConfig) -> Linear:
    def rest(evidence: Evidence) -> Tensor | float:
        return value_of(config.away, evidence) - value_of(config.towards, evidence)

    return Linear({PROMPTED: config.towards, UNPROMPTED: rest, Branch("src"): -config.away})


def _bridge(config: BridgeConfig) -> Staged:
    scale = config.guidance_scale
    first = Linear({PROMPTED: scale, BASELINE: 1.0 - scale, "eps": -1.0})
    second = Linear({Branch("better"): config.bridge_scale, Branch("worse"): -config.bridge_scale})
    return Staged(first, second, config.switch)


def _dds(config: DdsConfig) -> Linear:
    scale = config.guidance_scale
    return Linear({PROMPTED: scale, BASELINE: 1.0 - scale, SOURCE: -scale, SOURCE_BASELINE: scale - 1.0})


def _pds(config: PdsConfig) -> Linear:
    scale = config.guidance_scale

    def times(change: Schedule) -> Callable[[Evidence], Tensor]:
        return lambda evidence: posterior_factors(evidence)[1] * value_of(change, evidence)

    return Linear(
        {
            PROMPTED: times(scale),
            BASELINE: times(1.0 - scale),
            SOURCE: times(-scale),
            SOURCE_BASELINE: times(scale - 1.0),
            "z0": lambda evidence: posterior_factors(evidence)[0],
            "source": lambda evidence: -posterior_factors(evidence)[0],
        }
    )


def posterior_factors(evidence: Evidence) -> tuple[Tensor, Tensor]:
    """Return PDS's psi and chi, [B, 1, 1, 1] each: residual = psi (z0 - source) + chi (prediction - prediction@src).

    With a' = abar at t' = t - stride, b the sampler's single-step variance at t, c0 = sqrt(a') b / (1 - a),
    c1 = sqrt(1 - b) (1 - a') / (1 - a) and v = sqrt(b (1 - a') / (1 - a)):
    psi = (sqrt(a') - c0 - c1 sqrt(a)) / v and chi = c0 sigma / (alpha v). With t' = t - 1 psi is 0.

    Source: PDS (arXiv 2311.13831), KAIST-Visual-AI-Group/PDS: the variance is that of one timestep although the
    sampler's grid skips some. Limits: at times below the stride the earlier level is that of t = 0.
    """
    here, one, back = (evidence.points[name] for name in ("t", "back1", "back"))
    beta = (1.0 - (here.alpha / one.alpha) ** 2).clamp(min=1e-12)
    rest, rest_back = here.sigma**2, back.sigma**2
    first = back.alpha * beta / rest
    second = (1.0 - beta).sqrt() * rest_back / rest
    spread = (beta * rest_back / rest).sqrt()
    return (back.alpha - first - second * here.alpha) / spread, first * here.sigma / (here.alpha * spread)


ROWS: dict[str, Method] = {
    "bridge": Method(
        title="SDS-Bridge",
        config=BridgeConfig,
        rule=_bridge,
        formula="SDS first; then better - worse: the prompt with words for good and for bad pictures",
        evals=2,
        paper="Rethinking Score Distillation as a Bridge Between Image Distributions",
        arxiv="2406.09417",
        source="davidmcall/SDS-Bridge",
    ),
    "dds": Method(
        title="Delta denoising score",
        config=DdsConfig,
        rule=_dds,
        formula="[u + s (y - u)] - [u + s (src - u)]@src, the same noise in both pictures",
        evals=4,
        needs=frozenset({"source picture"}),
        paper="Delta Denoising Score",
        arxiv="2304.07090",
        source="google/prompt-to-prompt",
    ),
    "csd-edit": Method(
        title="Classifier score distillation for editing",
        config=CsdEditConfig,
        rule=_csd_edit,
        formula="w1 (y - 0) - w2 (src - 0), all of the picture as it is now",
        evals=3,
        paper="Text-to-3D with Classifier Score Distillation",
        arxiv="2310.19415",
        source="CVMI-Lab/Classifier-Score-Distillation",
    ),
    "pds": Method(
        title="Posterior distillation sampling",
        config=PdsConfig,
        rule=_pds,
        formula="psi (z0 - z_src) + chi times the residual of DDS",
        evals=4,
        noiser=lambda config: EarlierNoiser(config.stride),
        needs=frozenset({"source picture"}),
        paper="Posterior Distillation Sampling",
        arxiv="2311.13831",
        source="KAIST-Visual-AI-Group/PDS",
    ),
}
