"""The renderer protocol: parameters and cameras become an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from sds3d.cameras import Cameras
from sds3d.errors import ConfigError, nearest
from sds3d.meshing.mesh import Mesh


@dataclass
class Render:
    """What a renderer returns for B cameras of H x W pixels (layouts of `sds3d.conventions`).

    Args:
        rgb: [B, H, W, 3] composited on the background; with `is_latent`, latents of the prior [B, H, W, C] instead.
        alpha: [B, H, W, 1] in [0, 1].
        depth: [B, H, W, 1] expected camera z (0 where nothing was hit), or None.
        normal: [B, H, W, 3] unit, world frame, or None.
        extras: what a renderer's own regularisers and density control need (e.g. projected means with gradients).
    """

    rgb: Tensor
    alpha: Tensor
    depth: Tensor | None = None
    normal: Tensor | None = None
    extras: dict[str, Any] = field(default_factory=dict)
    is_latent: bool = False


class Renderer(nn.Module, ABC):
    """An asset: owns its parameters, renders them and looks after them between steps."""

    @abstractmethod
    def forward(self, cameras: Cameras, background: Tensor) -> Render:
        """Render all cameras; `background` is [B, 3] in [0, 1]."""

    def show(self, cameras: Cameras, background: Tensor) -> Render:
        """Render all cameras for people: `Render.rgb` holds colours, whatever training looks at."""
        return self(cameras, background)  # type: ignore[no-any-return]

    @abstractmethod
    def parameter_groups(self, learning_rates: Any) -> list[dict[str, Any]]:
        """Return optimiser groups (`params`, `lr`, `name`), one a kind of parameter."""

    def regularisers(self, render: Render) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, scalar loss term) pairs; the system multiplies each by its scheduled weight."""
        return iter(())

    def to_mesh(self, resolution: int, max_faces: int) -> Mesh:
        """Return the surface of the asset: a grid of `resolution` cells along an edge where one is needed, and at most
        `max_faces` triangles. Raises: NotImplementedError for renderers whose surface is found in other ways."""
        raise NotImplementedError(type(self).__name__)

    def use_less_memory(self) -> bool:
        """Draw in smaller pieces from now on; return False if that is not possible (any more)."""
        return False

    def after_step(self, step: int, optimiser: Any, render: Render) -> dict[str, float]:
        """Do what must happen after an optimiser step (density control, occupancy); return numbers to log."""
        return {}


def optimiser_groups(
    groups: Mapping[str, Sequence[Tensor]], known: Collection[str], learning_rates: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return one group a kind of parameter as torch's optimisers take them, with a learning rate each.

    Args:
        groups: the parameters there are, by kind. known: all kinds that may have a rate, be they there or not.
    Raises: ConfigError for a rate of an unknown kind, and for a kind without a rate.
    """
    for name in learning_rates:
        if name not in known:
            raise ConfigError(f"There is no parameter group '{name}'. Use {nearest(name, known)}.", name)
    missing = [name for name in groups if name not in learning_rates]
    if missing:
        raise ConfigError(
            f"Learning rates are missing for {', '.join(missing)}; every one of {', '.join(groups)} needs one.",
            missing[0],
        )
    return [{"params": list(values), "lr": learning_rates[name], "name": name} for name, values in groups.items()]
