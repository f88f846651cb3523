"""Methods with fresh noise and the frozen prior alone: SDS and its relatives, classifier scores, balanced directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from sds3d.guidance.branches import BASELINE, NEGATIVE, PROMPTED, UNPROMPTED, Evidence
from sds3d.guidance.config import Fraction, GuidanceConfig, WeightName, default, fall
from sds3d.guidance.method import Method, at_clock
from sds3d.guidance.minnorm import MinimumNorm
from sds3d.guidance.project import Projection
from sds3d.guidance.rules import Linear, Reconstruction
from sds3d.guidance.walks import DescentNoiser
from sds3d.schedule import Schedule, bounded

if TYPE_CHECKING:
    from torch import Tensor


class SdsConfig(GuidanceConfig):
    """Score distillation sampling (DreamFusion)."""

    method: Literal["sds"] = "sds"


class SjcConfig(GuidanceConfig):
    """Score Jacobian chaining: SDS with uniform weight, or without subtracting the noise."""

    method: Literal["sjc"] = "sjc"
    weight: WeightName = default("weight", "uniform")
    t_min: Fraction = default("t_min", 0.01)
    t_max: Fraction = default("t_max", 0.97)
    variance_reduction: bool = Field(default=True, description="subtract the drawn noise: same mean, less variance")


class CsdConfig(GuidanceConfig):
    """Classifier score distillation: the direction that guidance adds, alone."""

    method: Literal["csd"] = "csd"
    negative: Annotated[Schedule, bounded(low=0)] = Field(
        default=fall(0.0, 1.0, 0.5),
        description="how much of the unprompted prediction the negative one has replaced: y - w n - (1 - w) 0",
    )


class NfsdConfig(GuidanceConfig):
    """Noise-free score distillation: the noise is never subtracted, the negative prompt stands for it."""

    method: Literal["nfsd"] = "nfsd"
    guidance_scale: Schedule = default("guidance_scale", 7.5)
    small_t: float = Field(
        default=0.2, ge=0, le=1, description="below this fraction of the time axis the negative prompt is left out"
    )


class SsdConfig(GuidanceConfig):
    """Stable score distillation: at small times the prediction without its part along the noise."""

    method: Literal["ssd"] = "ssd"
    small_t: float = Field(default=0.1, ge=0, le=1, description="fraction of the time axis at which the form changes")


class BsdConfig(GuidanceConfig):
    """Balanced score distillation (PlacidDreamer): the shortest direction that classifies and smooths."""

    method: Literal["bsd"] = "bsd"
    weight: WeightName = default("weight", "bsd")
    gain: Annotated[Schedule, bounded(low=0)] = default("gain", 0.1)
    t_max: Fraction = default("t_max", fall(0.98, 0.5, 0.3))
    ratio: Annotated[Schedule, bounded(low=0)] = Field(
        default=Schedule.constant(18.0), description="length of the classifier direction: c = ratio (y - u), d = u"
    )
    mode: Literal["fixed", "auto"] = Field(
        default="fixed", description="auto: c = y - u and d = 1.25 (u - eps), which needs no ratio"
    )


class MvdreamReconConfig(GuidanceConfig):
    """MVDream's x0-reconstruction loss with its rescaled guidance."""

    method: Literal["mvdream-recon"] = "mvdream-recon"
    guidance_scale: Schedule = default("guidance_scale", 50.0)
    weight: WeightName = default("weight", "recon")
    group: int = Field(
        default=0,
        ge=0,
        description="views that share a timestep and one rescaling: 1 = each on its own, 0 = the whole batch",
    )
    rescale: Fraction = Field(
        default=Schedule.constant(0.5),
        description="how far the guided estimate is brought back to the spread of the unguided one (0 to 1)",
    )
    shared_t: bool = default("shared_t", True)


class HifaConfig(GuidanceConfig):
    """HiFA: the distance to an estimate denoised in several steps, in latents and in pixels."""

    method: Literal["hifa"] = "hifa"
    guidance_scale: Schedule = default("guidance_scale", 7.5)
    weight: WeightName = default("weight", "recon")
    gain: Annotated[Schedule, bounded(low=0)] = default("gain", 0.05)
    t_min: Fraction = default("t_min", fall(0.98, 0.3, interpolation="sqrt"))
    t_max: Fraction = default("t_max", fall(0.98, 0.3, interpolation="sqrt"))
    image_weight: Annotated[Schedule, bounded(low=0)] = default("image_weight", 0.1)
    denoise_steps: int = Field(default=4, ge=1, le=50, description="guided steps from the noisy point to the estimate")


class RfdsConfig(GuidanceConfig):
    """Rectified-flow distillation: SDS in the velocities of a flow model."""

    method: Literal["rfds"] = "rfds"
    weight: WeightName = default("weight", "velocity-random")
    t_min: Fraction = default("t_min", 0.019)
    t_max: Fraction = default("t_max", 0.699)


def _sds(config: GuidanceConfig) -> Linear:
    scale = config.guidance_scale
    return Linear({PROMPTED: scale, BASELINE: 1.0 - scale, "eps": -1.0})


def _sjc(config: SjcConfig) -> Linear:
    scale = config.guidance_scale
    return Linear({PROMPTED: scale, BASELINE: 1.0 - scale, "eps": -1.0 if config.variance_reduction else 0.0})


def _csd(config: CsdConfig) -> Linear:
    return Linear({PROMPTED: 1.0, NEGATIVE: -config.negative, UNPROMPTED: config.negative - 1.0})


def _nfsd(config: NfsdConfig) -> Linear:
    scale = config.guidance_scale
    return Linear({PROMPTED: scale, UNPROMPTED: 1.0 - scale, NEGATIVE: _minus_one_from(config.small_t)})


def _minus_one_from(small_t: float) -> Callable[[Evidence], Tensor]:
    """Return the coefficient that is -1 at times t >= small_t T and 0 below, each sample by itself."""
    return lambda evidence: -(evidence.here.t >= small_t * evidence.num_timesteps).float()[:, None, None, None]


def _hifa(config: HifaConfig) -> Reconstruction:
    return Reconstruction(config.guidance_scale, Schedule.constant(0.0), point="end")


ROWS: dict[str, Method] = {
    "sds": Method(
        title="Score distillation sampling",
        config=SdsConfig,
        rule=_sds,
        formula="u + s (y - u) - eps",
        evals=2,
        paper="DreamFusion: Text-to-3D using 2D Diffusion",
        arxiv="2209.14988",
        source="threestudio-project/threestudio",
    ),
    "sjc": Method(
        title="Score Jacobian chaining",
        config=SjcConfig,
        rule=_sjc,
        formula="u + s (y - u) - eps",
        evals=2,
        paper="Score Jacobian Chaining: Lifting Pretrained 2D Diffusion Models for 3D Generation",
        arxiv="2212.00774",
        source="pals-ttic/sjc",
    ),
    "csd": Method(
        title="Classifier score distillation",
        config=CsdConfig,
        rule=_csd,
        formula="y - w n - (1 - w) 0",
        evals=3,
        paper="Text-to-3D with Classifier Score Distillation",
        arxiv="2310.19415",
        source="CVMI-Lab/Classifier-Score-Distillation",
    ),
    "nfsd": Method(
        title="Noise-free score distillation",
        config=NfsdConfig,
        rule=_nfsd,
        formula="s (y - 0) + (0 - n where t >= 0.2 T, else 0)",
        evals=3,
        paper="Noise-Free Score Distillation",
        arxiv="2310.17590",
        source="davidmcall/SDS-Bridge (the official repository has no code)",
    ),
    "ssd": Method(
        title="Stable score distillation",
        config=SsdConfig,
        rule=lambda config: Projection(config.small_t),
        formula="y - 0; where t <= 0.1 T: y without its part along eps, as long as y - 0",
        evals=2,
        paper="Stable Score Distillation for High-Quality 3D Generation",
        arxiv="2312.09305",
        source="fudan-zvg/PGC-3D",
    ),
    "bsd": Method(
        title="Balanced score distillation",
        config=BsdConfig,
        rule=lambda config: MinimumNorm(config.ratio, config.mode),
        formula="shortest of g c + (1 - g) d, c = ratio (y - u), d = u",
        evals=2,
        paper="PlacidDreamer: Advancing Harmony in Text-to-3D Generation",
        arxiv="2407.13976",
        source="HansenHuang0823/PlacidDreamer",
    ),
    "mvdream-recon": Method(
        title="x0-reconstruction of MVDream",
        config=MvdreamReconConfig,
        rule=lambda config: Reconstruction(config.guidance_scale, config.rescale, config.group),
        formula="(alpha / sigma) (z0 - x0'), x0' the guided clean estimate, rescaled",
        evals=2,
        needs=frozenset({"one model for all views"}),
        paper="MVDream: Multi-view Diffusion for 3D Generation",
        arxiv="2308.16512",
        source="bytedance/MVDream-threestudio",
    ),
    "hifa": Method(
        title="Reconstruction in several steps (HiFA)",
        config=HifaConfig,
        rule=_hifa,
        formula="(alpha / sigma) (z0 - x0'), x0' denoised in n guided steps; also in pixels",
        evals=lambda config, t: 2 * config.denoise_steps,
        evals_note="2 n",
        noiser=lambda config: DescentNoiser(config.denoise_steps, at_clock(config.guidance_scale)),
        paper="HiFA: High-fidelity Text-to-3D Generation with Advanced Diffusion Guidance",
        arxiv="2305.18766",
        source="JunzheJosephZhu/HiFA",
    ),
    "rfds": Method(
        title="Rectified-flow distillation",
        config=RfdsConfig,
        rule=_sds,
        formula="u + s (y - u) - eps (times 1 / alpha: in velocities)",
        evals=2,
        paper="Text-to-Image Rectified Flow as Plug-and-Play Priors",
        arxiv="2406.03293",
        source="yangxiaofeng/rectified_flow_prior",
    ),
}
