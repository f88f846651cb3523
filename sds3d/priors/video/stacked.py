"""Video models without a time axis inside: the frames of a clip are channels of one picture to an ordinary UNet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.errors import AssetError
from sds3d.priors.base import Query, stack_queries
from sds3d.priors.camera_condition import encode_cameras
from sds3d.priors.loading import Network
from sds3d.priors.video.base import FrameRule
from sds3d.priors.video.diffusion import DiffusersVideoPrior, Opened, Words
from sds3d.priors.video.families import STACKED


def stacked(z: Tensor) -> Tensor:
    """Return clip latents [B, C, F, h, w] as pictures [B, F C, h, w]: all channels of frame 0, then of frame 1."""
    return z.transpose(1, 2).flatten(1, 2)


def unstacked(pictures: Tensor, frames: int) -> Tensor:
    """Return [B, C, F, h, w] of [B, F C, h, w]; undoes `stacked`."""
    return pictures.unflatten(1, (frames, -1)).transpose(1, 2)


def over_time(frames: int) -> Tensor:
    """Return the orthonormal cosine transform of time [F, F] float64 (DCT-II): row 0 is the mean frame times sqrt(F)."""
    k, f = torch.arange(frames).double()[:, None], torch.arange(frames).double()[None, :]
    rows = torch.cos(math.pi / frames * (f + 0.5) * k) * math.sqrt(2.0 / frames)
    rows[0] /= math.sqrt(2.0)
    return rows


class FrameBalance:
    """What frames have in common and what changes between them, each as large as the other for the network.

    Row k of the cosine transform of a clip's latents has standard deviation `scales[k]`: far above 1 for the mean frame,
    far below for what moves. With x_k the row of a noisy clip, s its scale and d^2 = alpha^2 s^2 + sigma^2,

        v_k = alpha sigma (1 - s^2) / d^2 x_k + s / d F_k(x_0 / d_0, x_1 / d_1, ...)

    where F is the network: the first part is the best linear guess, and inputs and targets of F have variance 1. Without
    it a network must learn to carry the noise of all frames through its layers, and motion is a hundredth of its loss.

    Args:
        scales: [F] above 0.
    Source: the preconditioning of Karras et al. (arXiv 2206.00364), table 1, in v-form (alpha^2 + sigma^2 = 1) and with
        a data variance of its own for each row in time; that is our own.
    """

    def __init__(self, scales: Tensor) -> None:
        self.variance = scales.double().square().float().view(1, 1, -1, 1, 1)
        self.basis = over_time(len(scales)).float()

    def to(self, device: torch.device) -> FrameBalance:
        """Move to a device and return itself."""
        self.variance, self.basis = self.variance.to(device), self.basis.to(device)
        return self

    def rows(self, z: Tensor) -> Tensor:
        """Return the cosine transform over time of [B, C, F, h, w]."""
        return torch.einsum("kf,bcfhw->bckhw", self.basis, z)

    def inputs(self, z_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return what the network sees [B, F C, h, w] of noisy clips [B, C, F, h, w]; alpha, sigma [B, 1, 1, 1, 1]."""
        return stacked(self.rows(z_t) / self._total(alpha, sigma).sqrt())

    def velocity(self, answer: Tensor, z_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return v [B, C, F, h, w] of the network's answer [B, F C, h, w]."""
        total = self._total(alpha, sigma)
        guess = alpha * sigma * (1 - self.variance) / total * self.rows(z_t)
        found = guess + (self.variance / total).sqrt() * unstacked(answer, len(self.basis))
        return torch.einsum("kf,bckhw->bcfhw", self.basis, found)

    def target(self, v: Tensor, z_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the answer [B, F C, h, w] whose `velocity` is v [B, C, F, h, w]."""
        total = self._total(alpha, sigma)
        guess = alpha * sigma * (1 - self.variance) / total * self.rows(z_t)
        return stacked((self.rows(v) - guess) * (total / self.variance).sqrt())

    def _total(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha.square() * self.variance + sigma.square()


class StackedFramesPrior(DiffusersVideoPrior):
    """A `UNet2DConditionModel` with F C channels: a clip of F frames costs about as much as one picture.

    The number of frames is fixed by the network and said by `frames` in the folder's sds3d.json. Times, text and camera
    (one a clip) go the ways of the bundled prior. With `frame_scales` in sds3d.json the network works in a `FrameBalance`
    and must predict v; without, frames are its channels as they are. Our own design for small machines.

    Limits: exactly F frames; what it learned of one frame of a clip does not help it with the others.
    """

    family = STACKED

    def __init__(self, opened: Opened, network: Network, autoencoder: Network, words: Words | None):
        frames, channels = opened.folder.metadata.frames or 0, int(network.config["in_channels"])
        latent = int(autoencoder.config["latent_channels"])
        if frames * latent != channels or int(network.config["out_channels"]) != channels:
            raise AssetError(
                f"The UNet of '{opened.folder.path}' has {channels} channels in and {network.config['out_channels']} out, "
                f"but sds3d.json says {frames} frames of {latent} latent channels, which is {frames * latent}. "
                "Correct frames in sds3d.json, or restore the folder from its source.",
                opened.folder.path,
            )
        self._stack = frames
        super().__init__(opened, network, autoencoder, words)
        self.balance = self._balance(opened.folder.metadata.frame_scales)
        self.has_camera = self.network.config.get("class_embed_type") == "projection"
        self._camera_size = int(self.network.config["projection_class_embeddings_input_dim"]) if self.has_camera else 0

    def _balance(self, scales: tuple[float, ...]) -> FrameBalance | None:
        if not scales:
            return None
        if len(scales) != self._stack or min(scales) <= 0 or self.parametrisation != "v_prediction":
            raise AssetError(
                f"sds3d.json of '{self.folder.path}' has frame_scales {list(scales)}, and the network's output is "
                f"'{self.parametrisation}', but {self._stack} numbers above 0 and v_prediction are needed. Restore the "
                "folder from its source.",
                self.folder.path,
            )
        return FrameBalance(torch.tensor(scales)).to(self.device)

    def rule(self) -> FrameRule:
        """Return exactly as many frames as the network has channels for."""
        return FrameRule(step=self._stack, most=self._stack)

    def native_frames(self) -> int:
        """Return the number of frames the network has channels for."""
        return self._stack

    def output(self, z: Tensor, times: Tensor, text: Tensor, pictures: Any) -> Tensor:
        """Return the UNet's output [B, C, F, h, w]."""
        given = {} if pictures is None else {"class_labels": pictures.to(z.dtype)}
        if self.balance is None:
            answer: Tensor = self.network(stacked(z), times, encoder_hidden_states=text, **given).sample
            return unstacked(answer, self._stack)
        alpha, sigma = self.alpha_sigma(times)  # with betas, the network's times are places on the axis
        seen = self.balance.inputs(z.float(), alpha, sigma).to(z.dtype)
        answer = self.network(seen, times, encoder_hidden_states=text, **given).sample
        return self.balance.velocity(answer.float(), z.float(), alpha, sigma)

    def camera_features(self, cameras: Cameras) -> Tensor | None:
        """Return [B, D] features of one camera a clip, or None if the UNet has no camera condition."""
        if not self.has_camera:
            return None
        return encode_cameras(cameras.cam_to_world, self.folder.metadata.camera_condition)

    def picture_conditions(self, queries: Sequence[Query]) -> Any:
        """Return the cameras [B, D] of all queries, zeros where one is hidden; None for UNets without."""
        if not self._camera_size:
            return None
        return stack_queries([replace(query, control=None) for query in queries], self._camera_size).camera
