"""What a distillation method asks for (branches), what was drawn for it, and what it gets (evidence)."""

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
        network: "base" is the frozen prior, "psi" the trained score network of the renders.
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

    def at(self, point: str) -> Branch:
        """Return the same question at another point."""
        return Branch(self.text, self.network, point, self.camera)


PROMPTED = Branch("y")
BASELINE = Branch("u")
UNPROMPTED = Branch("0")
NEGATIVE = Branch("n")
SCORE = Branch("plain", network="psi")
SCORE_NO_CAMERA = Branch("plain", network="psi", camera=False)
PERPENDICULAR = (Branch("perp0"), Branch("perp1"))


@dataclass(frozen=True)
class Point:
    """A noisy point: latents `z` [B, C, h, w] at timesteps `t` [B] with `alpha`, `sigma` [B, 1, 1, 1]."""

    z: Tensor
    t: Tensor
    alpha: Tensor
    sigma: Tensor


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The random numbers of one step, made on the CPU so that every device sees the same.

    Args:
        t: [B] int64 timesteps.
        epsilon: [B, C, h, w] standard normal noise.
        uniform: [B] numbers in [0, 1) for methods that draw one thing more; samples that share a time share it.
    """

    t: Tensor
    epsilon: Tensor
    uniform: Tensor

    def to(self, device: object) -> Draws:
        """Return the same draws on `device`."""
        epsilon, uniform = self.epsilon.to(device), self.uniform.to(device)  # type: ignore[call-overload]
        return Draws(t=self.t.to(device), epsilon=epsilon, uniform=uniform)  # type: ignore[call-overload]


@dataclass(frozen=True)
class Clock:
    """Where the run is: `step` (0-based) of `total` steps."""

    step: int
    total: int


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
        num_timesteps: length of the prior's time axis.
        uniform: [B] random numbers in [0, 1), see `Draws`.
        source: [B, C, h, w] latents of the picture to be edited, for methods that edit.
    """

    z0: Tensor
    epsilon: Tensor
    points: Mapping[str, Point]
    predictions: Mapping[Branch, Tensor]
    step: int
    total_steps: int
    guidance_scale: float
    num_timesteps: int = 1000
    uniform: Tensor | None = None
    source: Tensor | None = None

    @property
    def here(self) -> Point:
        """The point "t"."""
        return self.points["t"]

    def guided(self, point: str = "t") -> Tensor:
        """Return the guided prediction u + s (y - u) at a point, or y alone where the method asks for no baseline."""
        prompted = self.predictions[PROMPTED.at(point)]
        baseline = self.predictions.get(BASELINE.at(point), self.predictions.get(UNPROMPTED.at(point)))
        return prompted if baseline is None else baseline + self.guidance_scale * (prompted - baseline)
