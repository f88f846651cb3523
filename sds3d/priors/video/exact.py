"""An exact video prior: Gaussian clips with frames correlated as in an AR(1) process. It proves video guidance right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sds3d.errors import ConfigError, ShapeError, nearest
from sds3d.priors.base import Query, split_like, stack_queries
from sds3d.priors.exact import LinearCodec
from sds3d.priors.noise_levels import NoiseLevels, flow_levels, variance_preserving
from sds3d.priors.parametrisation import Parametrisation, output_to_epsilon
from sds3d.priors.video.base import FrameRule, VideoPrior


class ExactVideoPrior(VideoPrior):
    """Latents given a text are N(m, C), C = std^2 rho^|f - f'| over frames and independent over channels and pixels.

    E[z0 | z_t] = m + alpha C (alpha^2 C + sigma^2 I)^-1 (z_t - alpha m), an f x f system, solved by the eigenvectors
    of C. With `rho` 0 frames know nothing of each other, towards 1 a clip that jitters is refused. The imagined
    network outputs `parametrisation`; its output goes through the same conversion as a real network's.

    Args:
        means: m [C, f, h, w] of each text; all have the same shape. Only these texts are known.
        std: standard deviation of every element, above 0.
        rho: correlation of neighbouring frames, in [0, 1).
        parametrisation: what the imagined network outputs; "flow" also selects flow noise levels.
        codec: how a frame's pixels become latents; None means z0 = 2 x - 1, so C = 3 and h, w are the frame's size.
        levels: noise levels; None means those of Stable Diffusion, or the straight flow. Float64 levels make all
            answers to float64 points float64.
    Source: closed form of a linear Gaussian model; no paper.
    Limits: clips have the size and number of frames of the means; others are refused, not resized.
    """

    def __init__(
        self,
        means: Mapping[str, Tensor],
        *,
        std: float = 0.5,
        rho: float = 0.9,
        parametrisation: Parametrisation = "epsilon",
        codec: LinearCodec | None = None,
        levels: NoiseLevels | None = None,
        device: torch.device | str = "cpu",
    ):
        if std <= 0 or not 0 <= rho < 1:
            raise ConfigError(f"The exact video prior has std {std} and rho {rho}; needed is std > 0 and 0 <= rho < 1.")
        self.device, self.name, self.codec = torch.device(device), "exact", codec
        self.names, self.parametrisation = tuple(means), parametrisation
        self._means = torch.stack([means[name] for name in self.names]).to(self.device)
        frames, *size = self._means.shape[2:]
        self.frame_rule = FrameRule(most=frames)
        self.frames, self.size = frames, (size[0], size[1])
        default = flow_levels() if parametrisation == "flow" else variance_preserving()
        self.levels = (levels or default).to(self.device)
        self.num_timesteps = len(self.levels)
        apart = (torch.arange(frames)[:, None] - torch.arange(frames)).abs()
        variances, directions = torch.linalg.eigh(std**2 * torch.tensor(rho, dtype=torch.float64) ** apart)
        self._variances, self._directions = (x.to(self._means) for x in (variances, directions))

    def encode(self, rgb: Tensor) -> Tensor:
        """Return z0 [B, C, f, h, w] of clips [B, f, h, w, 3]; linear, so gradients are exact too."""
        self.check_clip(rgb)
        if tuple(rgb.shape[1:4]) != (self.frames, *self.size):
            raise ShapeError("the clip", f"[B, {self.frames}, {self.size[0]}, {self.size[1]}, 3]", tuple(rgb.shape))
        pixels = rgb.flatten(0, 1)
        z0 = self.codec.encode(pixels) if self.codec else (2.0 * pixels - 1.0).permute(0, 3, 1, 2)
        return z0.unflatten(0, (len(rgb), -1)).transpose(1, 2)

    def decode(self, z0: Tensor) -> Tensor:
        """Return [B, f, h, w, 3] of latents."""
        frames = z0.transpose(1, 2).flatten(0, 1)
        rgb = self.codec.decode(frames) if self.codec else (frames.permute(0, 2, 3, 1) + 1.0) / 2.0
        return rgb.unflatten(0, (len(z0), -1))

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma), [B, 1, 1, 1, 1] each."""
        alpha, sigma = self.levels.at(t)
        return alpha[..., None], sigma[..., None]

    def text(self, texts: Sequence[str]) -> Tensor:
        """Return [n, 1, 1] places of texts in the table. Raises: ConfigError for a text without a mean."""
        for text in texts:
            if text not in self.names:
                raise ConfigError(
                    f"The exact video prior does not know the text '{text}'; it knows {nearest(text, self.names)}. "
                    "Give it a mean for this text."
                )
        return torch.tensor([[[float(self.names.index(text))]] for text in texts], device=self.device)

    @torch.no_grad()
    def predict(self, queries: Sequence[Query]) -> list[Tensor]:
        """Return the exact noise prediction [B, C, f, h, w] of each query."""
        self.check_queries(queries)
        asked = stack_queries(queries)
        alpha, sigma = self.alpha_sigma(asked.t)
        clean = self._posterior_mean(asked, alpha, sigma)
        output = {
            "epsilon": (asked.z_t - alpha * clean) / sigma,
            "v_prediction": (alpha * asked.z_t - clean) / sigma,
            "sample": clean,
            "flow": (asked.z_t - clean) / sigma,
        }[self.parametrisation]
        return split_like(output_to_epsilon(output, asked.z_t, alpha, sigma, self.parametrisation), queries)

    def score(self, z_t: Tensor, t: Tensor, text: str) -> Tensor:
        """Return the gradient of log p_t(z_t | text) in `z_t` [B, C, f, h, w]: minus noise prediction over sigma."""
        query = Query(z_t=z_t, t=t, text=self.text([text]).expand(len(z_t), -1, -1))
        return -self.predict([query])[0] / self.alpha_sigma(t)[1]

    def _posterior_mean(self, asked: Query, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return E[z0 | z_t] [B, C, f, h, w]."""
        means = self._means[asked.text[:, 0, 0].long()]
        spectrum = torch.einsum("fk,bcfhw->bckhw", self._directions, asked.z_t - alpha * means)
        variances = self._variances[:, None, None]  # [f, 1, 1]
        shrunk = alpha * variances / (alpha**2 * variances + sigma**2) * spectrum
        return means + torch.einsum("fk,bckhw->bcfhw", self._directions, shrunk)
