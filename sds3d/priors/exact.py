"""Exact priors: mixtures of Gaussians whose noise predictions are known in closed form. They prove methods right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.errors import ConfigError, ShapeError, nearest
from sds3d.priors.base import Prior, Query, split_like, stack_queries
from sds3d.priors.camera_condition import FEATURE_SIZES, encode_cameras
from sds3d.priors.noise_levels import NoiseLevels, flow_levels, variance_preserving
from sds3d.priors.parametrisation import Parametrisation, output_to_epsilon

if TYPE_CHECKING:
    from sds3d.priors.score_network import ScoreNetwork


@dataclass(frozen=True)
class Mixture:
    """The distribution sum_k weights_k N(means_k, stds_k^2 I) of latents.

    Args:
        means: [K, C, h, w] float32.
        stds: [K] positive.
        weights: [K] positive, summing to 1.
    """

    means: Tensor
    stds: Tensor
    weights: Tensor

    @classmethod
    def gaussian(cls, mean: Tensor, std: float) -> Mixture:
        """Return N(mean, std^2 I); `mean` is [C, h, w]."""
        return cls(mean[None], torch.tensor([std]), torch.tensor([1.0]))


@dataclass(frozen=True)
class LinearCodec:
    """An encoder that maps every pixel by z0 = matrix x + offset; `matrix` is [C, 3], `offset` [C].

    The decoder is the pseudo-inverse, exact for C >= 3 and full rank.
    """

    matrix: Tensor
    offset: Tensor

    def encode(self, image: Tensor) -> Tensor:
        """Return [B, C, H, W] of [B, H, W, 3]."""
        return (image @ self.matrix.T + self.offset).permute(0, 3, 1, 2)

    def decode(self, z0: Tensor) -> Tensor:
        """Return [B, H, W, 3] of [B, C, H, W]."""
        inverse: Tensor = torch.linalg.pinv(self.matrix)
        return (z0.permute(0, 2, 3, 1) - self.offset) @ inverse.T


class ExactPrior(Prior):
    """A prior whose latents given a text are a `Mixture`, so that every prediction is exact.

    The imagined network outputs `parametrisation`; its output goes through the same conversion as a real network's.
    A text's "embedding" [n, 1, 1] is its place in the table of texts. Mixtures of different sizes are padded.

    Args:
        mixtures: distribution of each text; all means have the same shape. Only these texts are known.
        parametrisation: what the imagined network outputs; "flow" also selects flow noise levels.
        codec: how images become latents; None means z0 = 2 x - 1, so C = 3 and h, w are the image size.
        camera_shift: [D, C, h, w]; camera features [B, D] times it are added to all means. None: no camera condition.
        levels: noise levels; None means those of Stable Diffusion, or the straight flow.
    Limits: latents all have the size of the means; images of another size are refused, not resized.
    """

    def __init__(
        self,
        mixtures: Mapping[str, Mixture],
        *,
        parametrisation: Parametrisation = "epsilon",
        codec: LinearCodec | None = None,
        camera_shift: Tensor | None = None,
        levels: NoiseLevels | None = None,
        device: torch.device | str = "cpu",
    ):
        self.device = torch.device(device)
        self.names = tuple(mixtures)
        self.parametrisation: Parametrisation = parametrisation
        self._table = _pad([mixtures[name] for name in self.names], self.device)
        default = flow_levels() if parametrisation == "flow" else variance_preserving()
        self.levels = (levels or default).to(self.device)
        self.num_timesteps = len(self.levels)
        self.codec = codec
        self.image_size = self._table.means.shape[-1]
        self.has_camera = camera_shift is not None
        self.camera_shift = None if camera_shift is None else camera_shift.to(self.device)

    def encode(self, rgb: Tensor) -> Tensor:
        """Return z0 [B, C, h, w] of `rgb` [B, h, w, 3]; linear, so gradients are exact too."""
        size = tuple(self._table.means.shape[-2:])
        if rgb.ndim != 4 or tuple(rgb.shape[1:]) != (*size, 3):
            raise ShapeError("rgb", f"[B, {size[0]}, {size[1]}, 3]", tuple(rgb.shape))
        return self.codec.encode(rgb) if self.codec else (2.0 * rgb - 1.0).permute(0, 3, 1, 2)

    def decode(self, z0: Tensor) -> Tensor:
        """Return [B, h, w, 3] of latents."""
        return self.codec.decode(z0) if self.codec else (z0.permute(0, 2, 3, 1) + 1.0) / 2.0

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma), [B, 1, 1, 1] float32 each."""
        return self.levels.at(t)

    def text(self, texts: Sequence[str]) -> Tensor:
        """Return [n, 1, 1] table places of texts. Raises: ConfigError for a text that has no mixture."""
        for text in texts:
            if text not in self.names:
                raise ConfigError(
                    f"The exact prior does not know the text '{text}'; it knows {nearest(text, self.names)}. "
                    "Give it a mixture for this text."
                )
        places = [[[float(self.names.index(text))]] for text in texts]
        return torch.tensor(places, device=self.device)

    def camera_features(self, cameras: Cameras) -> Tensor | None:
        """Return [B, D] "extrinsics" features (D = 16), or None without a camera condition."""
        return encode_cameras(cameras.cam_to_world, "extrinsics") if self.has_camera else None

    @torch.no_grad()
    def predict(self, queries: Sequence[Query]) -> list[Tensor]:
        """Return the exact noise prediction [B, C, h, w] of each query."""
        asked = stack_queries(queries, FEATURE_SIZES["extrinsics"] if self.has_camera else 0)
        alpha, sigma = self.alpha_sigma(asked.t)
        clean = self._posterior_mean(asked, alpha, sigma)
        output = {
            "epsilon": (asked.z_t - alpha * clean) / sigma,
            "v_prediction": (alpha * asked.z_t - clean) / sigma,
            "sample": clean,
            "flow": (asked.z_t - clean) / sigma,
        }[self.parametrisation]
        return split_like(output_to_epsilon(output, asked.z_t, alpha, sigma, self.parametrisation), queries)

    def score_network(self, rank: int, generator: torch.Generator) -> ScoreNetwork:
        """Return a Gaussian whose mean and spread are trained; at first the standard normal."""
        from sds3d.priors.gaussian_score import GaussianScoreNetwork

        return GaussianScoreNetwork(self, tuple(self._table.means.shape[-3:]))

    def _posterior_mean(self, asked: Query, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return E[z0 | z_t] [B, C, h, w]: each component's Gaussian posterior mean, weighted by its responsibility."""
        place = asked.text[:, 0, 0].long()
        means, stds, weights = self._table.means[place], self._table.stds[place], self._table.weights[place]
        if self.camera_shift is not None and asked.camera is not None:
            features = asked.camera.to(self.camera_shift)
            means = means + torch.einsum("bd,dchw->bchw", features, self.camera_shift)[:, None]
        alpha, sigma = alpha[:, :, 0, 0], sigma[:, :, 0, 0]  # [B, 1]
        variance = alpha**2 * stds**2 + sigma**2  # [B, K], of z_t under each component
        offset = asked.z_t[:, None] - alpha[:, :, None, None, None] * means  # [B, K, C, h, w]
        size = offset[0, 0].numel()
        log_weight = weights.log() - 0.5 * (offset.flatten(2).square().sum(-1) / variance + size * variance.log())
        responsibility = log_weight.softmax(dim=1)
        gain = (alpha * stds**2 / variance)[:, :, None, None, None]
        return torch.einsum("bk,bkchw->bchw", responsibility, means + gain * offset)


def _pad(mixtures: Sequence[Mixture], device: torch.device) -> Mixture:
    """Return all mixtures stacked along a new first axis, padded to the same number of components by weight 0."""
    count = max(len(m.weights) for m in mixtures)

    def stack(rows: Sequence[Tensor], fill: float) -> Tensor:
        return torch.stack([torch.cat([row, torch.full((count - len(row), *row.shape[1:]), fill)]) for row in rows]).to(
            device
        )

    return Mixture(
        means=stack([m.means for m in mixtures], 0.0),
        stds=stack([m.stds for m in mixtures], 1.0),
        weights=stack([m.weights for m in mixtures], 0.0),
    )
