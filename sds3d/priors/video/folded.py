"""Clips as tall pictures: frames one below the other, so that guidance written for pictures works on clips unchanged.

A clip is one sample of guidance: one timestep, one weight, one text. All of guidance is elementwise or works over a
whole sample, so where the frames stand does not matter to it; only the prior unfolds them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.errors import ConfigError, ShapeError
from sds3d.priors.base import Prior, Query
from sds3d.priors.video.base import VideoPrior

Filter = Callable[[Tensor], Tensor]


def fold_pixels(clip: Tensor) -> Tensor:
    """Return [B, F H, W, 3] of a clip [B, F, H, W, 3]; a view."""
    return clip.flatten(1, 2)


def unfold_pixels(tall: Tensor, frames: int) -> Tensor:
    """Return [B, F, H, W, 3] of [B, F H, W, 3]."""
    if tall.ndim != 4 or tall.shape[1] % frames:
        raise ShapeError("the folded clip", f"[B, {frames} H, W, 3]", tuple(tall.shape))
    return tall.unflatten(1, (frames, -1))


def fold_latents(z: Tensor) -> Tensor:
    """Return [B, C, f h, w] of latents [B, C, f, h, w]."""
    return z.flatten(2, 3)


def unfold_latents(tall: Tensor, frames: int) -> Tensor:
    """Return [B, C, f, h, w] of [B, C, f h, w]."""
    return tall.unflatten(2, (frames, -1))


class FoldedPrior(Prior):
    """A `VideoPrior` that answers about clips of `frames` frames as if they were tall pictures.

    Attributes:
        first_frames: [B, 3, H, W] in [0, 1] without graph, what a prior that animates pictures starts from; set it
            before each step.
        gradient_filter: applied to the gradient in latents [B, C, f, h, w] on its way back, or None.
    """

    def __init__(self, video: VideoPrior, frames: int):
        self.video, self.frames = video, video.frame_rule.check(frames, video.name)
        self.latent_frames = video.latent_frames(frames)
        self.device, self.num_timesteps, self.image_size = video.device, video.num_timesteps, video.size[0]
        self.null_text, self.has_camera = video.null_text, video.has_camera
        self.first_frames: Tensor | None = None
        self.gradient_filter: Filter | None = None

    def encode(self, rgb: Tensor) -> Tensor:
        """Return [B, C, f h, w] of folded clips [B, F H, W, 3]."""
        z0 = self.video.encode(unfold_pixels(rgb, self.frames))
        if self.gradient_filter is not None and z0.requires_grad:
            z0.register_hook(self.gradient_filter)
        return fold_latents(z0)

    def decode(self, z0: Tensor) -> Tensor:
        """Return folded clips [B, F H, W, 3]."""
        return fold_pixels(self.video.decode(unfold_latents(z0, self.latent_frames)))

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma), [B, 1, 1, 1] each."""
        alpha, sigma = self.video.alpha_sigma(t)
        return alpha.flatten(1, 2), sigma.flatten(1, 2)

    def text(self, texts: Sequence[str]) -> Tensor:
        """Return [n, rows, dim] embeddings."""
        return self.video.text(texts)

    def camera_features(self, cameras: Cameras) -> Tensor | None:
        """Return [B, D] features of one camera a clip, or None if the video prior does not listen to cameras."""
        return self.video.camera_features(cameras)

    def predict(self, queries: Sequence[Query]) -> list[Tensor]:
        """Return the noise prediction [B, C, f h, w] of each query, in one call of the video network."""
        if self.video.needs_first_frame and self.first_frames is None:
            raise ConfigError(
                f"The video prior '{self.video.name}' animates a picture, but no first frame is set. Set "
                "FoldedPrior.first_frames, or run it through ClipGuidance, which takes it from the clip."
            )
        asked = [
            replace(
                query,
                z_t=unfold_latents(query.z_t, self.latent_frames),
                control=self.first_frames if self.video.needs_first_frame else None,
            )
            for query in queries
        ]
        return [fold_latents(answer) for answer in self.video.predict(asked)]
