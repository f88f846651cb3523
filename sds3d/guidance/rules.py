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

Key = Branch | Literal["eps"]
"""A prediction, or "eps" for the noise that was added."""


class Rule(ABC):
    """Turns evidence into a residual. `needs` are the branches that must be predicted first."""

    needs: tuple[Branch, ...]

    @abstractmethod
    def __call__(self, evidence: Evidence) -> Tensor:
        """Return the residual [B, C, h, w] float32, positive where z0 lies above what the model expects."""


class Linear(Rule):
    """A linear combination of predictions: residual = sum of coefficient times prediction.

    A branch whose coefficient is always 0 is not asked for. Rules add: `Linear({y: 1, u: -1}) + Linear({y: 2, p: -2})`.
    If the coefficients sum to zero the residual vanishes where all predictions agree; almost all methods have this.
    """

    def __init__(self, *coefficients: Mapping[Key, Coefficient]):
        self.parts = coefficients
        pairs = [pair for part in coefficients for pair in part.items()]
        self.terms = tuple((key, value) for key, value in pairs if not _is_zero(value))
        self.needs = tuple(dict.fromkeys(key for key, _ in self.terms if isinstance(key, Branch)))

    def __call__(self, evidence: Evidence) -> Tensor:
        """Return the combination in the order of the terms."""
        residual = evidence.z0.new_zeros(()).expand_as(evidence.z0)
        for key, coefficient in self.terms:
            value = evidence.epsilon if key == "eps" else evidence.predictions[key]
            residual = residual + value_of(coefficient, evidence) * value
        return residual

    def __add__(self, other: Linear) -> Linear:
        return Linear(*self.parts, *other.parts)

    def coefficient_sum(self, evidence: Evidence) -> Tensor | float:
        """Return the sum of all coefficients now; 0 for every rule that is blind to a shift of all predictions."""
        return sum((value_of(coefficient, evidence) for _, coefficient in self.terms), 0.0)


class Reconstruction(Rule):
    """The distance from z0 to the guided clean estimate: residual = (alpha / sigma) (z0 - x0'), x0' rescaled.

    With weight "recon" (sigma / alpha) the gradient is z0 - x0'. With `rescale` 0 the rule is SDS.

    Args:
        scale: guidance scale s.
        rescale: phi in [0, 1]; see `rescaled_clean`.
        group: samples whose spread is measured together; 1 = each alone, 0 = the whole batch.
    """

    def __init__(self, scale: Schedule, rescale: Schedule, group: int = 0):
        self.scale, self.rescale, self.group = scale, rescale, group
        self.needs = (PROMPTED, BASELINE)

    def __call__(self, evidence: Evidence) -> Tensor:
        """Return the residual [B, C, h, w]."""
        prompted, baseline = evidence.predictions[PROMPTED], evidence.predictions[BASELINE]
        guided = baseline + value_of(self.scale, evidence) * (prompted - baseline)
        share = self.rescale.at(evidence.step, evidence.total_steps)
        clean = rescaled_clean(guided, prompted, evidence.here, share, self.group)
        return (evidence.here.alpha / evidence.here.sigma) * (evidence.z0 - clean)


def value_of(coefficient: Coefficient, evidence: Evidence) -> Tensor | float:
    """Return the coefficient's value now."""
    if isinstance(coefficient, Schedule):
        return coefficient.at(evidence.step, evidence.total_steps)
    return coefficient(evidence) if callable(coefficient) else coefficient


def _is_zero(coefficient: Coefficient) -> bool:
    if isinstance(coefficient, Schedule):
        return all(value == 0.0 for value in coefficient.values)
    return not callable(coefficient) and coefficient == 0.0
