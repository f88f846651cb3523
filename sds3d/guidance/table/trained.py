"""Methods with a second network psi, trained on the renders themselves: VSD and its relatives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from sds3d.guidance.branches import BASELINE, PROMPTED, SCORE, SCORE_NO_CAMERA, Branch, Evidence
from sds3d.guidance.config import Fraction, GuidanceConfig, ScoreConfig, default, fall
from sds3d.guidance.method import Method, Requirement
from sds3d.guidance.rules import Coefficient, Key, Linear, value_of
from sds3d.schedule import Schedule, bounded

if TYPE_CHECKING:
    from torch import Tensor

NEEDS: frozenset[Requirement] = frozenset({"trained score network"})


class TrainedConfig(GuidanceConfig):
    """What methods with a trained score network share; abstract."""

    guidance_scale: Schedule = default("guidance_scale", 7.5)
    t_max: Fraction = default("t_max", fall(0.98, 0.5, 0.2, "step"))
    score: ScoreConfig = Field(
        default_factory=ScoreConfig, description="the network that learns how the present renders look"
    )


class VsdConfig(TrainedConfig):
    """Variational score distillation (ProlificDreamer)."""

    method: Literal["vsd"] = "vsd"
    score_scale: Schedule = Field(
        default=Schedule.constant(1.0),
        description="camera guidance of the trained network: without + k (with - without); 1 costs nothing",
    )


class EsdConfig(TrainedConfig):
    """Entropic score distillation: VSD whose trained network half forgets the camera, against Janus faces."""

    method: Literal["esd"] = "esd"
    score_scale: Schedule = Field(
        default=Schedule.constant(0.5), description="camera guidance of the trained network; 1 is VSD"
    )


class DsdConfig(TrainedConfig):
    """Domain score distillation (DreamPolish), as we read it: unconditional and variational domain, weighed."""

    method: Literal["dsd"] = "dsd"
    unconditional: Schedule = Field(
        default=Schedule.constant(6.5), description="weight of y - u, the direction of guidance"
    )
    variational: Schedule = Field(
        default=Schedule.constant(1.0), description="weight of y - psi, the direction away from the present renders"
    )
    normalize_domains: bool = Field(
        default=False, description="give both directions the same size in each sample before they are weighed"
    )


class AdversarialConfig(TrainedConfig):
    """Adversarial score distillation: VSD whose network also learns to differ from the prompt's prediction."""

    method: Literal["adversarial"] = "adversarial"
    adversarial_weight: float = Field(
        default=-0.75,
        gt=-1,
        le=10,
        description="factor of |psi - y|^2 in psi's loss; 0 is VSD; at -1 the loss has no minimum",
    )
    gain: Annotated[Schedule, bounded(low=0)] = default("gain", 1.0)


def _vsd(config: VsdConfig | EsdConfig) -> Linear:
    scale, camera = config.guidance_scale, config.score_scale
    return Linear({PROMPTED: scale, BASELINE: 1.0 - scale, SCORE: -camera, SCORE_NO_CAMERA: camera - 1.0})


def _adversarial(config: AdversarialConfig) -> Linear:
    scale = config.guidance_scale
    return Linear({PROMPTED: scale, BASELINE: 1.0 - scale, SCORE: -1.0})


def _dsd(config: DsdConfig) -> Linear:
    if not config.normalize_domains:
        unconditional, variational = config.unconditional, config.variational
        return Linear({PROMPTED: unconditional, BASELINE: -unconditional}, {PROMPTED: variational, SCORE: -variational})
    pairs = ((config.unconditional, BASELINE), (config.variational, SCORE))
    terms: list[dict[Key, Coefficient]] = [
        {PROMPTED: _Sized(weight, other), other: _Sized(-weight, other)} for weight, other in pairs
    ]
    return Linear(*terms)


class _Sized:
    """A coefficient that brings y - other to the geometric mean of the sizes of both domains, times its weight."""

    def __init__(self, weight: Schedule, other: Branch) -> None:
        self.weight, self.other = weight, other

    def __call__(self, evidence: Evidence) -> Tensor:
        """Return the coefficient, [B, 1, 1, 1]."""
        sizes = {
            branch: (evidence.predictions[PROMPTED] - evidence.predictions[branch])
            .square()
            .mean(dim=(1, 2, 3), keepdim=True)
            .sqrt()
            .clamp(min=1e-12)
            for branch in (BASELINE, SCORE)
        }
        common = (sizes[BASELINE] * sizes[SCORE]).sqrt()
        return value_of(self.weight, evidence) * common / sizes[self.other]


ROWS: dict[str, Method] = {
    "vsd": Method(
        title="Variational score distillation",
        config=VsdConfig,
        rule=_vsd,
        formula="u + s (y - u) - psi",
        evals=2,
        score_evals=1,
        needs=NEEDS,
        paper="ProlificDreamer: High-Fidelity and Diverse Text-to-3D Generation with Variational Score Distillation",
        arxiv="2305.16213",
        source="thu-ml/prolificdreamer",
    ),
    "esd": Method(
        title="Entropic score distillation",
        config=EsdConfig,
        rule=_vsd,
        formula="u + s (y - u) - [psi- + k (psi - psi-)], psi- without camera",
        evals=2,
        score_evals=2,
        needs=NEEDS,
        paper="Taming Mode Collapse in Score Distillation for Text-to-3D Generation",
        arxiv="2401.00909",
        source="VITA-Group/3D-Mode-Collapse",
    ),
    "dsd": Method(
        title="Domain score distillation",
        config=DsdConfig,
        rule=_dsd,
        formula="a (y - u) + b (y - psi)",
        evals=2,
        score_evals=1,
        needs=NEEDS,
        paper="DreamPolish: Domain Score Distillation With Progressive Geometry Generation",
        arxiv="2411.01602",
        source="reconstructed from the abstract; no public code",
    ),
    "adversarial": Method(
        title="Adversarial score distillation",
        config=AdversarialConfig,
        rule=_adversarial,
        formula="u + s (y - u) - psi, psi also pushed away from y",
        evals=2,
        score_evals=1,
        training_evals=1,
        needs=NEEDS,
        paper="Adversarial Score Distillation: When score distillation meets GAN",
        arxiv="2312.00739",
        source="2y7c3/ASD",
    ),
}
