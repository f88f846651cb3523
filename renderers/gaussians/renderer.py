"""A cloud of Gaussians as a renderer: owns the parameters, draws them and controls their density."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from renderers.base import Render, Renderer, optimiser_groups
from renderers.gaussians import constants, parameters, regularisers, sh
from renderers.gaussians.density import DensitySettings, DensityStatistics, control_density
from renderers.gaussians.parameters import GROUPS, Gaussians
from renderers.gaussians.projection import rotation_matrices
from renderers.gaussians.rasterise import rasterise
from sds3d.cameras import Cameras
from sds3d.errors import ConfigError, ShapeError, nearest


@dataclass(frozen=True, kw_only=True)
class GaussianSettings:
    """How Gaussians are drawn and kept.

    Args:
        backend: "auto", "reference", "cpu" or "gsplat"; see `rasterise`.
        rasterize_mode: "classic", or "antialiased" when the asset will be seen at other sizes than it was trained at.
        normals: also render normals (costs three channels).
        largest_scale: world units a Gaussian may measure before the term "scale" counts.
        needle_ratio: ratio of longest to middle axis free of that term.
        density: when and how Gaussians are moved, added and removed.

    Raises: ConfigError for unknown words and values that are not positive.
    """

    backend: str = "auto"
    rasterize_mode: str = "classic"
    normals: bool = False
    largest_scale: float = 0.1
    needle_ratio: float = 5.0
    density: DensitySettings = field(default_factory=DensitySettings)

    def __post_init__(self) -> None:
        words = (("backend", constants.BACKENDS), ("rasterize_mode", constants.RASTERIZE_MODES))
        for name, allowed in words:
            if getattr(self, name) not in allowed:
                given = getattr(self, name)
                raise ConfigError(f"{name} is '{given}', which is unknown. Use {nearest(given, allowed)}.", name)
        for name in ("largest_scale", "needle_ratio"):
            if not getattr(self, name) > 0:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}, but must be above 0. Give a positive number.", name
                )


class GaussianRenderer(Renderer):
    """N Gaussians with constant colour.

    Args:
        gaussians: initial values (see `initialise`); copied.
        settings: see `GaussianSettings`.

    The parameters `means`, `quats`, `log_scales`, `opacity_logits` and `sh0` are those of `Gaussians`. Density control
    may replace them by longer or shorter ones (`after_step`); a checkpoint of another count needs `resize_` before
    `load_state_dict`, and an optimiser must be made after that.
    Limits: colours are not limited above (as in every splat format), so rgb can exceed 1.
    """

    means: nn.Parameter
    quats: nn.Parameter
    log_scales: nn.Parameter
    opacity_logits: nn.Parameter
    sh0: nn.Parameter

    def __init__(self, gaussians: Gaussians, settings: GaussianSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or GaussianSettings()
        for name in GROUPS:
            setattr(self, name, nn.Parameter(getattr(gaussians, name).detach().clone()))
        with_radii = self.settings.density.needs_radii
        self.statistics = DensityStatistics(len(gaussians), with_radii).to(gaussians.means.device)

    @property
    def count(self) -> int:
        """Number of Gaussians."""
        return self.means.shape[0]

    @property
    def scales(self) -> Tensor:
        """[N, 3] standard deviations, world units."""
        return self.log_scales.exp()

    @property
    def opacities(self) -> Tensor:
        """[N] in (0, 1)."""
        return self.opacity_logits.sigmoid()

    @property
    def colours(self) -> Tensor:
        """[N, 3] sRGB, >= 0."""
        return sh.rgb_from_sh0(self.sh0)

    def forward(self, cameras: Cameras, background: Tensor) -> Render:
        """Render all cameras on `background` [B, 3]; extras: `meta` of the rasteriser, `means` and `scales`."""
        if background.shape != (len(cameras), 3):
            raise ShapeError("background", f"[{len(cameras)}, 3]", tuple(background.shape))
        viewmats, scales = cameras.world_to_cam, self.scales
        features = self.colours
        if self.settings.normals:
            shared = features.expand(len(cameras), -1, -1)
            features = torch.cat([shared, self._facing_normals(cameras.cam_to_world[:, :3, 3])], dim=-1)
            background = torch.cat([background, torch.zeros_like(background)], dim=-1)
        images, alpha, meta = rasterise(
            self.means,
            self.quats,
            scales,
            self.opacities,
            features,
            viewmats,
            cameras.intrinsics,
            cameras.width,
            cameras.height,
            backgrounds=background,
            render_mode="RGB+ED",
            rasterize_mode=self.settings.rasterize_mode,
            absgrad=self.settings.density.absolute_gradient,
            backend=self.settings.backend,
        )
        normal = nn.functional.normalize(images[..., 3:6], dim=-1) if self.settings.normals else None
        extras = {"meta": meta, "means": self.means, "scales": scales}
        return Render(images[..., :3], alpha, images[..., -1:], normal, extras)

    def _facing_normals(self, centres: Tensor) -> Tensor:
        """Return [C, N, 3] shortest axes, world frame, turned towards each camera centre [C, 3]."""
        shortest = self.log_scales.detach().argmin(dim=1)
        axes = rotation_matrices(self.quats).permute(2, 1, 0)  # [N, axis, xyz]
        axis = axes.gather(1, shortest[:, None, None].expand(-1, 1, 3))[:, 0]
        towards = ((centres[:, None] - self.means.detach()) * axis.detach()).sum(dim=-1, keepdim=True)
        return torch.where(towards < 0, -axis, axis)

    def parameter_groups(self, learning_rates: Mapping[str, float]) -> list[dict[str, Any]]:
        """Return one optimiser group a kind of parameter; `learning_rates` must name each of `GROUPS`."""
        return optimiser_groups({name: [getattr(self, name)] for name in GROUPS}, GROUPS, learning_rates)

    def regularisers(self, render: Render) -> Iterator[tuple[str, Tensor]]:
        """Yield the terms of `regularisers` by their names there (each computed when it is reached)."""
        yield "opacity", regularisers.opacity(render.alpha)
        yield "binary", regularisers.binary(render.alpha)
        yield "variation", regularisers.variation(render.alpha)
        yield "opacity_mean", regularisers.opacity_mean(self.opacities)
        yield "scale_mean", regularisers.scale_mean(render.extras["scales"])
        settings = self.settings
        yield "scale", regularisers.scale(render.extras["scales"], settings.largest_scale, settings.needle_ratio)
        yield "outside", regularisers.outside(render.extras["means"])

    def after_step(self, step: int, optimiser: Any, render: Render) -> dict[str, float]:
        """Control the density after optimiser step `step` (0, 1, ...); `render` must have been through backward.

        Draws from a generator that follows from the seed of the settings and the step, so a resumed run repeats them.
        """
        settings = self.settings.density
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        return control_density(self, optimiser, settings, step, render.extras["meta"], generator)

    def resize_(self, count: int) -> GaussianRenderer:
        """Make room for `count` Gaussians (values are lost), so that a checkpoint of that count can be loaded.

        Raises: ConfigError if count is below 1.
        """
        if count < 1:
            raise ConfigError(
                f"The Gaussian count is {count}, but at least 1 is needed. Give a positive number.", "count"
            )
        blank = parameters.empty(count, self.means.data)
        for name in GROUPS:
            old = getattr(self, name)
            setattr(self, name, nn.Parameter(getattr(blank, name), requires_grad=old.requires_grad))
        self.statistics.resize_(count)
        return self
