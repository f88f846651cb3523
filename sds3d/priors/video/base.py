"""The video prior protocol: like `sds3d.priors.base`, but a sample is a clip and its latents have a time axis."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.errors import ConfigError, ShapeError
from sds3d.priors.base import Query


@dataclass(frozen=True, kw_only=True)
class FrameRule:
    """How many frames a video model takes: step k + first, k >= 1, at most `most`.

    Args:
        stride: frames a latent frame stands for; a causal autoencoder keeps the first frame apart (`first` 1).
        first: frames of the first latent frame where it is different: 1 for causal autoencoders, 0 for picture ones.
        step: distance between allowed numbers, a multiple of `stride`, which it is where None.
        most: the largest number the network was built for, None if it has no such limit.
    """

    stride: int = 1
    first: int = 0
    step: int | None = None
    most: int | None = None

    @property
    def least(self) -> int:
        """The smallest number of frames: a clip of one frame does not move."""
        return max((self.step or self.stride) + self.first, 2)

    def allows(self, frames: int) -> bool:
        """Return whether a clip may have this many frames."""
        in_step = (frames - self.first) % (self.step or self.stride) == 0
        return in_step and self.least <= frames <= (self.most or frames)

    def latent_frames(self, frames: int) -> int:
        """Return how many latent frames a clip of `frames` has."""
        return (frames - self.first) // self.stride + self.first

    def nearest(self, frames: int) -> list[int]:
        """Return the allowed numbers next to `frames`, below and above."""
        reach = (self.step or self.stride) + self.least
        near = [n for n in range(max(frames - reach, self.least), max(frames, self.least) + reach) if self.allows(n)]
        below, above = [n for n in near if n < frames][-1:], [n for n in near if n > frames][:1]
        largest = range(self.most or self.least, self.least - 1, -1)
        return [*below, *above] or [next(n for n in largest if self.allows(n))]

    def __str__(self) -> str:
        if self.least == self.most:
            return f"exactly {self.most} frames"
        step = self.step or self.stride
        rule = "any number of frames" if step == 1 else f"{step} k + {self.first} frames"
        limit = f" from {self.least}" + ("" if self.most is None else f" to {self.most}")
        return rule + limit

    def check(self, frames: int, name: str) -> int:
        """Return `frames`. Raises: ConfigError naming what the model `name` allows, if it is not that."""
        if not self.allows(frames):
            near = " or ".join(str(n) for n in self.nearest(frames))
            raise ConfigError(
                f"The clip has {frames} frame{'' if frames == 1 else 's'}, but the video prior '{name}' takes {self}. "
                f"Set frames to {near}.",
                path="frames",
            )
        return frames


class VideoPrior(ABC):
    """A frozen model of clips. Clips are [B, F, H, W, 3] in [0, 1], latents [B, C, f, h, w] float32.

    `Query` is that of `sds3d.priors.base` with `z_t` [B, C, f, h, w] and one timestep a clip; `Query.control`
    [B, 3, H, W] in [0, 1] is the first frame for priors that animate a picture.

    Attributes:
        name: how messages call it.
        frame_rule: how many frames a clip may have.
        frames: the number the prior was opened for.
        size: (height, width) in pixels of its frames; others are resized.
        num_timesteps: length of its discrete time axis; noise grows with t.
        device: where its tensors live; inputs must live there too.
        hears_text: False for priors that only animate a picture; their text says "condition" or "no condition".
        needs_first_frame: whether `Query.control` must be there.
        has_camera: whether it listens to camera features, one camera a clip.
        null_text: the text that means "unprompted".
    """

    name: str
    frame_rule: FrameRule
    frames: int
    size: tuple[int, int]
    num_timesteps: int
    device: torch.device
    hears_text: bool = True
    needs_first_frame: bool = False
    has_camera: bool = False
    null_text: str = ""

    @abstractmethod
    def encode(self, rgb: Tensor) -> Tensor:
        """Return latents z0 [B, C, f, h, w] of clips, differentiably and without randomness."""

    @abstractmethod
    def decode(self, z0: Tensor) -> Tensor:
        """Return clips [B, F, H, W, 3] of latents, not clamped to [0, 1]."""

    @abstractmethod
    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma), [B, 1, 1, 1, 1] each, of timesteps `t` [B] int64."""

    @abstractmethod
    def text(self, texts: Sequence[str]) -> Tensor:
        """Return [n, rows, dim] embeddings of n texts; each text is encoded once and remembered."""

    @abstractmethod
    def predict(self, queries: Sequence[Query]) -> list[Tensor]:
        """Return the noise prediction (epsilon form, float32, no graph) of each query, in one batched network call."""

    def camera_features(self, cameras: Cameras) -> Tensor | None:
        """Return [B, D] features of one camera a clip, for `Query.camera`; None if the prior does not listen to them."""
        return None

    def free_text_encoders(self) -> None:  # noqa: B027  (there may be none)
        """Forget the text encoders, not the embeddings; a new text loads them again."""

    def latent_frames(self, frames: int) -> int:
        """Return the number f of latent frames of a clip of `frames`."""
        return self.frame_rule.latent_frames(frames)

    def check_clip(self, rgb: Tensor) -> None:
        """Raise ShapeError if `rgb` is not [B, F, H, W, 3], ConfigError if the model does not take F frames."""
        if rgb.ndim != 5 or rgb.shape[-1] != 3:
            raise ShapeError("the clip", "[B, F, H, W, 3]", tuple(rgb.shape))
        self.frame_rule.check(rgb.shape[1], self.name)

    def check_queries(self, queries: Sequence[Query]) -> None:
        """Raise ShapeError if points are not [B, C, f, h, w], ConfigError if a first frame is missing."""
        for query in queries:
            if query.z_t.ndim != 5:
                raise ShapeError("z_t", "[B, C, f, h, w]", tuple(query.z_t.shape))
            if self.needs_first_frame and query.control is None:
                raise ConfigError(
                    f"The video prior '{self.name}' animates a picture, but no first frame is given. Pass it as "
                    "Query.control [B, 3, H, W], or choose a prior that starts from text, for example 'modelscope'."
                )


def frames_first(z: Tensor) -> Tensor:
    """Return [B f, C, h, w] of clip latents or pictures [B, C, f, h, w]: group-major, frames of a clip together."""
    return z.transpose(1, 2).flatten(0, 1)


def channels_first(z: Tensor, clips: int) -> Tensor:
    """Return [B, C, f, h, w] of [B f, C, h, w]; undoes `frames_first` for B = `clips`."""
    return z.unflatten(0, (clips, -1)).transpose(1, 2)


def resized(rgb: Tensor, size: tuple[int, int]) -> Tensor:
    """Return clips [B, F, H, W, 3] as [B, 3, F, h, w] in [-1, 1] of `size` (h, w), resized bilinearly if need be."""
    images = rgb.flatten(0, 1).permute(0, 3, 1, 2).float() * 2.0 - 1.0
    if tuple(images.shape[2:]) != tuple(size):
        images = torch.nn.functional.interpolate(images, size, mode="bilinear", align_corners=False)
    return channels_first(images, len(rgb))
