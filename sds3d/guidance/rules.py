"""Residual rules: what a method makes of the predictions. The gradient is weight times residual, and is descended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from sds3d.guidance.branches import BASELINE, PROMPTED, Branch, Evidence
from sds3d.guidance.recon import rescaled_clean
from sds3d.schedule import Schedule

if TYPE_CHECKING:
    from torch import Tensor

Coefficient = float | Schedule | Callable[[Evidence], "Tensor | float"]
"""A number, a number that changes with time, or a function of the evidence (broadcastable to [B, C, h, w])."""

Key = Branch | Literal["eps", "z0", "source"]
"""A prediction, "eps" for the noise that was added, "z0" for the latents or "source" for those of the edited picture."""


class Rule(ABC):
    """Turns evidence into a residual. `needs` are all branches that must be predicted first, at some step of a run."""

    needs: tuple[Branch, ...]
    clean_point: str = "t"
    """The point whose guided prediction gives the rule's clean estimate."""

    def wanted(self, step: int, total_steps: int) -> tuple[Branch, ...]:
        """Return the branches that must be predicted at this step."""
        return self.needs

    @abstractmethod
    def __call__(self, evidence: Evidence) -> Tensor:
        """Return the residual [B, C, h, w] float32, positive where z0 lies above what the model expects."""


class Linear(Rule):
    """A linear combination of predictions: residual = sum of coefficient times prediction.

    A branch whose coefficient is always 0, or a schedule that is 0 now, is not asked for. Rules add:
    `Linear({y: 1, u: -1}) + Linear({y: 2, p: -2})`.
    If the coefficients sum to zero the residual vanishes where all predictions agree; almost all methods have this.
    """

    def __init__(self, *coefficients: Mapping[Key, Coefficient]):
        self.parts = coefficients
        pairs = [pair for part in coefficients for pair in part.items()]
        self.terms = tuple((key, value) for key, value in pairs if not _is_zero(value))
        self.needs = tuple(dict.fromkeys(key for key, _ in self.terms if isinstance(key, Branch)))

    def wanted(self, step: int, total_steps: int) -> tuple[Branch, ...]:
        """Return the branches with a coefficient that is not 0 at this step."""
        return tuple(dict.fromkeys(key for key, _ in self._live(step, total_steps) if isinstance(key, Branch)))

    def __call__(self, evidence: Evidence) -> Tensor:
        """Return the combination in the order of the terms."""
        residual = evidence.z0.new_zeros(()).expand_as(evidence.z0)
        for key, coefficient in self._live(evidence.step, evidence.total_steps):
            residual = residual + value_of(coefficient, evidence) * _read(key, evidence)
        return residual

    def _live(self, step: int, total_steps: int) -> list[tuple[Key, Coefficient]]:
        """Return the terms that are not switched off by a schedule at this step."""
        return [
            (key, value)
            for key, value in self.terms
            if not isinstance(value, Schedule) or value.at(step, total_steps) != 0.0
        ]

    def __add__(self, other: Linear) -> Linear:
        return Linear(*self.parts, *other.parts)

    def coefficient_sum(self, evidence: Evidence) -> Tensor | float:
        """Return the sum of the coefficients of predictions and noise now.

        It is 0 for every rule that is blind to a shift of all predictions.
        """
        noise = [coefficient for key, coefficient in self.terms if key not in ("z0", "source")]
        return sum((value_of(coefficient, evidence) for coefficient in noise), 0.0)


class Staged(Rule):
    """One rule up to the fraction `at` of the run, another from there on; only the one in force asks for predictions."""

    def __init__(self, first: Rule, second: Rule, at: float) -> None:
        self.first, self.second, self.at = first, second, at
        self.needs = tuple(dict.fromkeys((*(first.needs if at > 0 else ()), *second.needs)))

    def now(self, step: int, total_steps: int) -> Rule:
        """Return the rule in force at this step."""
        return self.first if step < self.at * total_steps else self.second

    def wanted(self, step: int, total_steps: int) -> tuple[Branch, ...]:
        """Return what the rule in force wants."""
        return self.now(step, total_steps).wanted(step, total_steps)

    def __call__(self, evidence: Evidence) -> Tensor:
        """Return the residual of the rule in force."""
        return self.now(evidence.step, evidence.total_steps)(evidence)


class Reconstruction(Rule):
    """The distance from z0 to the guided clean estimate: residual = (alpha / sigma) (z0 - x0'), x0' rescaled.

    With weight "recon" (sigma / alpha) the gradient is z0 - x0'. With `rescale` 0 and at "t" the rule is SDS.

    Args:
        scale: guidance scale s.
        rescale: phi in [0, 1]; see `rescaled_clean`.
        group: samples whose spread is measured together; 1 = each alone, 0 = the whole batch.
        point: where the clean estimate is made; (alpha, sigma) of the factor are always those of "t".
    """

    def __init__(self, scale: Schedule, rescale: Schedule, group: int = 0, point: str = "t"):
        self.scale, self.rescale, self.group, self.clean_point = scale, rescale, group, point
        self.needs = (PROMPTED.at(point), BASELINE.at(point))

    def __call__(self, evidence: Evidence) -> Tensor:
        """Return the residual [B, C, h, w]."""
        prompted, baseline = (evidence.predictions[branch] for branch in self.needs)
        guided = baseline + value_of(self.scale, evidence) * (prompted - baseline)
        share = self.rescale.at(evidence.step, evidence.total_steps)
        clean = rescaled_clean(guided, prompted, evidence.points[self.clean_point], share, self.group)
        return (evidence.here.alpha / evidence.here.sigma) * (evidence.z0 - clean)


def _read(key: Key, evidence: Evidence) -> Tensor:
    """Return the tensor a term multiplies."""
    if isinstance(key, Branch):
        return evidence.predictions[key]
    if key == "eps":
        return evidence.epsilon
    value = evidence.z0 if key == "z0" else evidence.source
    assert value is not None  # Guidance refuses to run without a source where one is needed
    return value


def value_of(coefficient: Coefficient, evidence: Evidence) -> Tensor | float:
    """Return the coefficient's value now."""
    if isinstance(coefficient, Schedule):
        return coefficient.at(evidence.step, evidence.total_steps)
    return coefficient(evidence) if callable(coefficient) else coefficient


def _is_zero(coefficient: Coefficient) -> bool:
    if isinstance(coefficient, Schedule):
        return all(value == 0.0 for value in coefficient.values)
    return not callable(coefficient) and coefficient == 0.0
