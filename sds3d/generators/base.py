"""What a generator is: a network from noise and text to assets. It owns weights and knows nothing of rendering."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sds3d.errors import ShapeError
from sds3d.priors.noise_levels import NoiseLevels

PLANES = ("xy", "xz", "yz")
"""Order of the planes of an asset. Each is an upright picture, see `renderers.triplane_sampling`."""


@dataclass(frozen=True)
class Planes:
    """B objects as triplanes in the box [-radius, radius]^3, with the networks that read them.

    Args:
        geometry: [B, 3, C, H, W] float32 features of the shape, planes in the order `PLANES`.
        texture: [B, 3, C, H, W] float32 features of the colour.
        heads: `sds3d.generators.heads.FieldHeads` that turn features into distances, colours and moves.
        radius: half the side of the box, world units.
        start_radius: of the sphere the distances are added to.
        reach: how much may be added at most, world units; 0: any amount. Then surfaces stay between the spheres of radius
            start_radius - reach and start_radius + reach, so an object can neither vanish nor fill the pictures.
    """

    geometry: Tensor
    texture: Tensor
    heads: nn.Module
    radius: float = 1.0
    start_radius: float = 0.5
    reach: float = 0.0

    def __len__(self) -> int:
        return self.geometry.shape[0]

    def __getitem__(self, index: slice) -> Planes:
        """Return some of the objects."""
        return replace(self, geometry=self.geometry[index], texture=self.texture[index])

    def detached(self) -> Planes:
        """Return the same objects without a graph."""
        return replace(self, geometry=self.geometry.detach(), texture=self.texture.detach())

    def within_reach(self, added: Tensor) -> Tensor:
        """Return what the heads want to add to the distance, kept within `reach`; the gradient falls but never dies."""
        return added if self.reach == 0.0 else self.reach * added / (self.reach + added.abs())


@dataclass(frozen=True)
class Latents:
    """B objects that are pictures already: `values` [B, C, h, w] latents of a prior. For one-step image generators."""

    values: Tensor

    def __len__(self) -> int:
        return self.values.shape[0]

    def __getitem__(self, index: slice) -> Latents:
        """Return some of the objects."""
        return Latents(self.values[index])

    def detached(self) -> Latents:
        """Return the same objects without a graph."""
        return Latents(self.values.detach())


Assets = Planes | Latents


class LatentGenerator(nn.Module, ABC):
    """A network that denoises the latents of an object and decodes them to an asset.

    Attributes:
        slots: latents an object has (6 planes, 1 picture); batches are object-major, row = slots * object + slot.
        latent_shape: (C, h, w) of one of them.
        levels: noise levels its timesteps refer to.
    """

    slots: int
    latent_shape: tuple[int, int, int]
    levels: NoiseLevels

    @abstractmethod
    def predict_clean(self, z: Tensor, t: int, text: Tensor) -> Tensor:
        """Return the clean latents [B * slots, C, h, w] that the network sees in `z` at timestep `t`.

        text: [B, rows, dim] embeddings, one an object. Hides what the network's output means (noise, v, sample).
        """

    @abstractmethod
    def decode(self, latents: Tensor) -> Assets:
        """Return the B assets of latents [B * slots, C, h, w]."""

    def noise(self, objects: int, generator: torch.Generator) -> Tensor:
        """Return [objects * slots, C, h, w] standard normal noise, drawn on the CPU."""
        return torch.randn(objects * self.slots, *self.latent_shape, generator=generator)

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters that training changes, by name: all that a checkpoint holds."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def alpha_sigma(self, t: int) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma), 0-dim, at timestep `t`."""
        return self.levels.alpha[t], self.levels.sigma[t]

    def objects_of(self, latents: Tensor) -> int:
        """Return the number of objects in latents [B * slots, ...]. Raises: ShapeError for a part of an object."""
        if latents.shape[0] % self.slots:
            raise ShapeError("latents", f"[B * {self.slots}, ...] (all planes of each object)", tuple(latents.shape))
        return latents.shape[0] // self.slots

    def to(self, *args: Any, **kwargs: Any) -> LatentGenerator:
        """Move weights and noise levels."""
        moved: LatentGenerator = super().to(*args, **kwargs)
        moved.levels = moved.levels.to(next(iter(moved.parameters())).device)
        return moved


def load_trained(generator: LatentGenerator, values: dict[str, Tensor]) -> None:
    """Set the trained parameters from what `LatentGenerator.trained` named.

    Raises: ShapeError naming the first parameter that is missing, left over or of another shape.
    """
    own = generator.trained()
    for name in (*(own.keys() - values.keys()), *(values.keys() - own.keys())):
        raise ShapeError(f"the weights '{name}'", "the names of this generator's own trained parameters", ())
    with torch.no_grad():
        for name, parameter in own.items():
            if parameter.shape != values[name].shape:
                raise ShapeError(f"the weights '{name}'", str(list(parameter.shape)), tuple(values[name].shape))
            parameter.copy_(values[name])


def chunked(assets: Assets, size: int) -> Iterator[Assets]:
    """Yield the assets in groups of at most `size` objects."""
    for first in range(0, len(assets), size):
        yield assets[first : first + size]
