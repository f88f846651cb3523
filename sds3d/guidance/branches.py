"""What a distillation method asks for (branches) and what it gets (evidence)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sds3d.prompts import TextRole

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Branch:
    """One prediction: which network, which text, at which noisy point, knowing the camera or not.

    Args:
        text: the role of the text (`sds3d.prompts.TextRole`).
        network: "base" is the frozen prior; methods with a trained score network add names.
        point: name of a noisy point the noiser makes; "t" is the usual one.
        camera: False hides the camera from a network that would listen to it.
    """

    text: TextRole
    network: str = "base"
    point: str = "t"
    camera: bool = True

    def __str__(self) -> str:
        network = "" if self.network == "base" else f"{self.network}:"
        point = "" if self.point == "t" else f"@{self.point}"
        return f"{network}{self.text}{point}{'' if self.camera else '-camera'}"


PROMPTED = Branch("y")
BASELINE = Branch("u")
UNPROMPTED = Branch("0")
NEGATIVE = Branch("n")


@dataclass(frozen=True)
class Point:
    """A noisy point: latents `z` [B, C, h, w] at timesteps `t` [B] with `alpha`, `sigma` [B, 1, 1, 1]."""

    z: Tensor
    t: Tensor
    alpha: Tensor
    sigma: Tensor


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that weights and rules may look at; tensors are float32 and carry no graph.

    Args:
        z0: [B, C, h, w] latents of the render.
        epsilon: [B, C, h, w] the noise in the points.
        points: noisy points by name, "t" always among them.
        predictions: noise predictions [B, C, h, w] by branch.
        step, total_steps: where the run is.
        guidance_scale: scale s of classifier-free guidance now, u + s (y - u).
    """

    z0: Tensor
    epsilon: Tensor
    points: Mapping[str, Point]
    predictions: Mapping[Branch, Tensor]
    step: int
    total_steps: int
    guidance_scale: float

    @property
    def here(self) -> Point:
        """The point "t"."""
        return self.points["t"]

    def guided(self) -> Tensor:
        """Return the guided prediction u + s (y - u), or y alone where the method does not ask for a baseline."""
        prompted = self.predictions[PROMPTED]
        if BASELINE not in self.predictions:
            return prompted
        baseline = self.predictions[BASELINE]
        return baseline + self.guidance_scale * (prompted - baseline)
