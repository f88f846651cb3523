"""What a row of the method table says. Imports no torch, so that the command line can print the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from sds3d.guidance.branches import Clock
from sds3d.guidance.config import GuidanceConfig
from sds3d.guidance.noisers import GaussianNoiser, Noiser
from sds3d.guidance.rules import Rule
from sds3d.schedule import Schedule

Requirement = Literal["trained score network", "source picture", "one model for all views"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of the table.

    Args:
        title: its full name, as short names are taken twice in the literature.
        config: its configuration class; the defaults in it are the method's own.
        rule: makes the residual rule from a configuration.
        formula: the residual in one line, in the notation of docs/guidance.md.
        evals: evaluations of the frozen prior per image and step with default settings, guidance branches counted
            singly: a number, or a function of configuration and timestep.
        noiser: makes what makes the noisy points from a configuration.
        evals_note: what `evals` counts where it is not a plain number.
        score_evals: evaluations of the trained score network without a graph; its training adds one with a graph.
        training_evals: further evaluations of the frozen prior that this training needs.
        needs: what a run must bring besides a prior with an empty prompt, and a prompt.
        paper, arxiv: where it was published; authors: by whom, needed if `sds3d.citations` has no entry for it.
        source: public repository whose numbers were followed, or a word on where they come from.
    """

    title: str
    config: type[GuidanceConfig]
    rule: Callable[[Any], Rule]
    formula: str
    evals: int | Callable[[Any, int], int]
    noiser: Callable[[Any], Noiser] = lambda config: GaussianNoiser()
    evals_note: str = ""
    score_evals: int = 0
    training_evals: int = 0
    needs: frozenset[Requirement] = frozenset()
    paper: str
    arxiv: str
    source: str
    authors: str = ""

    @property
    def trains(self) -> bool:
        """Whether the method trains a network of its own."""
        return "trained score network" in self.needs

    def defaults(self) -> GuidanceConfig:
        """Return the configuration with all defaults."""
        return self.config.model_validate({})

    def evaluations(self, config: Any, t: int = 500) -> int:
        """Return the evaluations of the frozen prior per image and step at timestep `t`, training included."""
        count = self.evals if isinstance(self.evals, int) else self.evals(config, t)
        return count + self.training_evals

    @property
    def cost(self) -> str:
        """The evaluations of a step in words; "psi" is the trained score network."""
        config = self.defaults()
        text = self.evals_note or str(self.evaluations(config) - self.training_evals)
        if self.trains:
            extra = f"{self.training_evals} + " if self.training_evals else ""
            text += f" + {self.score_evals} psi + ({extra}1 psi forward and backward)"
        return text if not self.evals_note else f"{text}; {self.evaluations(config)} at t = 500"


def at_clock(schedule: Schedule) -> Callable[[Clock], float]:
    """Return a schedule as a function of the clock, for noisers."""
    return lambda clock: schedule.at(clock.step, clock.total)
