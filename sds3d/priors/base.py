"""The prior protocol: what does a frozen diffusion model predict for a noisy image?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.errors import ConfigError, ShapeError

if TYPE_CHECKING:
    from sds3d.priors.score_network import ScoreNetwork

POSE_SIZE = 16
"""Length of `Query.pose`."""

NULL_TEXT = "\0"
"""Stands for "no text at all": an embedding of zeros, for models trained that way; "" is a text like any other."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """One question to a network, for B samples; every sample brings its own point, time, text and camera.

    Args:
        z_t: [B, C, h, w] float32 noisy latents.
        t: [B] int64 timesteps in [0, num_timesteps - 1].
        text: [B, tokens, dim] embeddings, as `Prior.text` makes them.
        camera: [B, D] features, as `Prior.camera_features` makes them, or None for "no camera".
        pose: [B, 16] "extrinsics" features for networks trained beside the prior, or None; the prior does not read it.
        control: [B, K, H, W] condition pictures in [0, 1] for priors that take them (depth, normals, ...), or None.
    """

    z_t: Tensor
    t: Tensor
    text: Tensor
    camera: Tensor | None = None
    pose: Tensor | None = None
    control: Tensor | None = None


class Prior(ABC):
    """A frozen model of images. Images are [B, H, W, 3] in [0, 1], latents [B, C, h, w] float32.

    Attributes:
        image_size: side in pixels of the square images the model was made for.
        num_timesteps: length of its discrete time axis.
        has_camera: whether it listens to camera features.
        device: where its tensors live; inputs must live there too.
        group_views: so many consecutive samples of a query are views of one object and are looked at together.
        control_channels: K of `Query.control`, 0 for priors that take no condition pictures.
        null_text: what the model knows as "unprompted": the empty text, or `NULL_TEXT` where it was trained with zeros.
    """

    image_size: int
    num_timesteps: int
    has_camera: bool
    device: torch.device
    group_views: int = 1
    control_channels: int = 0
    null_text: str = ""

    @abstractmethod
    def encode(self, rgb: Tensor) -> Tensor:
        """Return latents z0 of images, differentiably and without randomness; other image sizes are resized."""

    @abstractmethod
    def decode(self, z0: Tensor) -> Tensor:
        """Return images of latents; the inverse of `encode` up to what the encoder loses, not clamped to [0, 1]."""

    @abstractmethod
    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma), [B, 1, 1, 1] float32 each, of timesteps `t` [B] int64."""

    @abstractmethod
    def text(self, texts: Sequence[str]) -> Tensor:
        """Return [n, tokens, dim] embeddings of n texts; each text is encoded once and remembered.

        The prior's own `null_text` may be among them; "" is a text like any other.

        Whatever else a family derives from the words (pooled vectors) is packed into further rows of the same tensor,
        so that guidance can stack, blend and project texts without knowing the family.
        """

    @abstractmethod
    def predict(self, queries: Sequence[Query]) -> list[Tensor]:
        """Return the noise prediction (epsilon form, float32, no graph) of each query, in one batched network call."""

    def begin_step(self, step: int, total_steps: int) -> None:
        """Hear which step of how many is next, for what follows a schedule inside a prior; numbers of the host only."""
        return None

    def latent_shape(self) -> tuple[int, int, int]:
        """Return (C, h, w) of the latents of a square picture, found by encoding a grey one."""
        grey = torch.full((1, self.image_size, self.image_size, 3), 0.5, device=self.device)
        with torch.no_grad():
            _, channels, height, width = self.encode(grey).shape
        return channels, height, width

    def camera_features(self, cameras: Cameras) -> Tensor | None:
        """Return [B, D] features of cameras for `Query.camera`, or None if the prior does not listen to cameras."""
        return None

    def score_network(self, rank: int, generator: torch.Generator) -> ScoreNetwork:
        """Return a trainable copy of this prior's opinion, at first equal to it, for methods that learn the renders.

        Args:
            rank: size of what is trained.
            generator: CPU generator of its first values.
        Raises: ConfigError if this kind of prior cannot be trained.
        """
        raise ConfigError(
            f"A prior of kind {type(self).__name__} cannot train a score network. Choose a method without one, for "
            "example guidance.method=sds.",
            path="guidance.method",
        )


def stack_queries(queries: Sequence[Query], camera_size: int = 0) -> Query:
    """Return the queries as one, concatenated along the batch; a missing camera becomes zeros if `camera_size` > 0.

    Missing poses become zeros where another query has one.

    Raises: ShapeError if times, texts or condition pictures do not match the points of their query.
    """
    for query in queries:
        batch = query.z_t.shape[0]
        if query.t.shape != (batch,):
            raise ShapeError("t", f"[{batch}] (one a sample)", tuple(query.t.shape))
        if query.text.shape[0] != batch:
            raise ShapeError("text", f"[{batch}, tokens, dim]", tuple(query.text.shape))
        if query.control is not None and query.control.shape[:1] != (batch,):
            raise ShapeError("control", f"[{batch}, K, H, W]", tuple(query.control.shape))
    pose = None
    if any(query.pose is not None for query in queries):
        pose = torch.cat([_or_zeros(query.pose, query.z_t, POSE_SIZE) for query in queries])
    camera = None
    if camera_size:
        camera = torch.cat([_or_zeros(query.camera, query.z_t, camera_size) for query in queries])
    control = None
    if any(query.control is not None for query in queries):
        if any(query.control is None for query in queries):
            raise ShapeError("control", "[B, K, H, W] in every query, or None in all", ())
        control = torch.cat([query.control for query in queries])  # type: ignore[misc]
    return Query(
        z_t=torch.cat([q.z_t for q in queries]),
        t=torch.cat([q.t for q in queries]),
        text=torch.cat([q.text for q in queries]),
        camera=camera,
        pose=pose,
        control=control,
    )


def _or_zeros(features: Tensor | None, z_t: Tensor, size: int) -> Tensor:
    """Return features [B, size] like `z_t`; zeros mean "no camera"."""
    return z_t.new_zeros(z_t.shape[0], size) if features is None else features.to(z_t)


def split_like(stacked: Tensor, queries: Sequence[Query]) -> list[Tensor]:
    """Return `stacked` [sum of batches, ...] cut into one tensor a query; undoes `stack_queries`."""
    return list(torch.split(stacked, [q.z_t.shape[0] for q in queries]))
