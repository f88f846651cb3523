"""Toys that show what a rule does: a ring of modes in the plane, and a network that makes points."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sds3d.generators.base import LatentGenerator, Latents
from sds3d.generators.fake import reseed
from sds3d.priors.exact import ExactPrior, LinearCodec, Mixture
from sds3d.priors.noise_levels import NoiseLevels

RING_TEXT = "a ring"


def ring_prior(modes: int = 4, radius: float = 2.0, std: float = 0.25) -> ExactPrior:
    """Return the exact prior of `modes` equal Gaussians on a circle in the plane; latents are [2, 1, 1]."""
    angle = 2.0 * math.pi * torch.arange(modes) / modes
    means = radius * torch.stack([angle.cos(), angle.sin()], dim=1)[:, :, None, None]
    mixture = Mixture(means, torch.full((modes,), std), torch.full((modes,), 1.0 / modes))
    codec = LinearCodec(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), torch.zeros(2))
    return ExactPrior({RING_TEXT: mixture, "": mixture}, codec=codec)


class PointGenerator(LatentGenerator):
    """An MLP from noise [N, C, 1, 1] to points of the same shape; it reads neither time nor text."""

    def __init__(self, levels: NoiseLevels, size: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.levels, self.slots, self.latent_shape = levels, 1, (size, 1, 1)
        sizes = ((size, width), (width, width), (width, size))
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in sizes)
        reseed(self, generator)

    def predict_clean(self, z: Tensor, t: int, text: Tensor) -> Tensor:
        """Return points."""
        x = z.flatten(1)
        for layer in self.layers[:-1]:
            x = nn.functional.silu(layer(x))
        return self.layers[-1](x).view_as(z)  # type: ignore[no-any-return]

    def decode(self, latents: Tensor) -> Latents:
        """Return the points as they are."""
        return Latents(latents)


def ring_coverage(points: Tensor, modes: int = 4, radius: float = 2.0, std: float = 0.25) -> dict[str, float]:
    """Return what a cloud [N, 2] covers: modes with at least a tenth of all points within 3 std, the share of points within
    3 std of any mode, the mean spread within covered modes, and the mean distance from the origin."""
    angle = 2.0 * math.pi * torch.arange(modes) / modes
    centres = radius * torch.stack([angle.cos(), angle.sin()], dim=1)
    distance, nearest = torch.cdist(points, centres).min(dim=1)
    near = distance < 3.0 * std
    share = torch.stack([((nearest == mode) & near).float().mean() for mode in range(modes)])
    spreads = [points[(nearest == mode) & near].std(dim=0).mean() for mode in range(modes) if share[mode] >= 0.1]
    return {
        "modes": float((share >= 0.1).sum()),
        "near": float(near.float().mean()),
        "least": float(share.min()),
        "spread": float(torch.stack(spreads).mean()) if spreads else 0.0,
        "radius": float(points.norm(dim=1).mean()),
    }


BALLS: dict[str, tuple[float, tuple[float, float, float]]] = {
    "a small red ball": (0.35, (0.85, 0.12, 0.10)),
    "a large blue ball": (0.7, (0.12, 0.25, 0.85)),
}
"""Radius and colour of the two objects of `ball_prior`."""
BALL_DISTANCE, BALL_FOV_DEG = 2.5, 45.0


def ball_picture(radius: float, colour: tuple[float, float, float], size: int, finer: int = 8) -> tuple[Tensor, Tensor]:
    """Return the picture [size, size, 3] of a ball at the origin on white, and its coverage [size, size, 1].

    It looks alike from everywhere: camera at `BALL_DISTANCE`, field of view `BALL_FOV_DEG`. finer: samples a pixel's side.
    """
    count = size * finer
    line = (torch.arange(count) + 0.5) / count * 2.0 - 1.0
    slope = line * math.tan(math.radians(0.5 * BALL_FOV_DEG))
    square = slope[:, None] ** 2 + slope[None] ** 2
    distance = BALL_DISTANCE * (square / (1.0 + square)).sqrt()  # of the line of sight from the centre
    covered = (distance < radius).float().view(size, finer, size, finer).mean(dim=(1, 3))[..., None]
    return covered * torch.tensor(colour) + 1.0 - covered, covered


def ball_prior(size: int = 16, std: float = 0.1, device: str = "cpu") -> ExactPrior:
    """Return the exact prior that wants pictures N(picture of the prompt's ball, std^2); latents are 2 x - 1."""
    means = {text: 2.0 * ball_picture(*ball, size)[0] - 1.0 for text, ball in BALLS.items()}
    means[""] = torch.zeros(size, size, 3)
    mixtures = {text: Mixture.gaussian(mean.permute(2, 0, 1), std) for text, mean in means.items()}
    return ExactPrior(mixtures, device=device)
