"""What radiance fields and signed distance fields share: rays, samples, chunks, pixels, the grid of empty space."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from renderers.background import Background
from renderers.base import Render, Renderer, optimiser_groups
from renderers.fields.build import active_levels
from renderers.volume import integrate, proposal, regularisers, samples
from renderers.volume.occupancy import OccupancyGrid
from renderers.volume.rays import Rays, camera_rays
from renderers.volume.samples import Samples
from sds3d.cameras import Cameras
from sds3d.config.nerf import VolumeConfig
from sds3d.errors import ShapeError

Pixels = dict[str, Tensor]
"""Sums over each ray, [R, channels]."""
SMALLEST_CHUNK = 1024
"""Samples; smaller chunks save nothing."""
_STEP = 1_000_003
"""Distance of the seeds of two runs, more than any run has steps."""


@dataclass
class Evaluated:
    """A field at N samples: optical depths [N] >= 0, colours [N, 3], unit normals [N, 3] or None, and the squared
    violation [N] of the eikonal equation or None."""

    depths: Tensor
    colours: Tensor
    normals: Tensor | None = None
    eikonal: Tensor | None = None


class VolumeRenderer(Renderer):
    """A field in the box [-radius, radius]^3, drawn by summing samples along the rays of all pixels.

    While training, samples are shifted at random, by a CPU generator that follows from `seed` and the number of the
    step; pictures without gradient are the same every time. More than `samples_at_a_time` samples are done in chunks,
    which are computed a second time for the gradient: memory stays bounded, time grows by about a third.
    The state dict holds the grid of empty space, the step and the seed: a resumed run goes on bit by bit.
    """

    field: nn.Module
    groups: tuple[str, ...] = ("encoding", "network", "background")
    centred = False
    """Whether `occupancy_at` is asked at the centres of cells; otherwise at random points in them."""

    def __init__(
        self, config: VolumeConfig, decay: float, generator: torch.Generator, background_channels: int = 3
    ) -> None:
        super().__init__()
        self.config = config
        self.background = Background(config.background, config.background_share, generator, background_channels)
        self.occupancy = OccupancyGrid(
            config.occupancy.resolution, config.radius, decay, config.occupancy.threshold, grow=decay > 0
        )
        self.samples_at_a_time, self._drawn = config.sampling.chunk, config.sampling.chunk
        self.seed, self.step = int(torch.randint(2**31, (), generator=generator)), 0

    # ---- what a field must answer

    @abstractmethod
    def evaluate(self, points: Tensor, directions: Tensor, width: Tensor) -> Evaluated:
        """Return the field at points [N, 3] seen along directions [N, 3] over intervals of width [N]."""

    @abstractmethod
    def coarse_depths(self, points: Tensor, width: Tensor) -> Tensor:
        """Return optical depths [N] >= 0 without gradient, for deciding where to sample."""

    @abstractmethod
    def occupancy_at(self, points: Tensor) -> Tensor:
        """Return [N] values for the grid of empty space."""

    @abstractmethod
    def color_at(self, points: Tensor) -> Tensor:
        """Return colours [N, 3] sRGB in [0, 1] of points [N, 3]."""

    # ---- pictures

    def forward(self, cameras: Cameras, background: Tensor) -> Render:
        """Render all cameras on `background` [B, 3]; extras hold sums over rays for `regularisers`."""
        if background.shape != (len(cameras), 3):
            raise ShapeError("background", f"[{len(cameras)}, 3]", tuple(background.shape))
        rays = camera_rays(cameras, self.config.radius)
        generator = self._generator() if self.training and torch.is_grad_enabled() else None
        pixels = self._pixels(rays, generator)
        size = (len(cameras), cameras.height, cameras.width)
        images = {name: values.view(*size, -1) for name, values in pixels.items()}
        behind = self.behind(background, rays.directions.view(*size, 3), generator)
        alpha = images["alpha"]
        rgb = images["rgb"] + (1.0 - alpha) * behind
        # The expected z of what was hit; 0 where nothing was.
        share = 1.0 / alpha.clamp(min=1e-6)
        middle = (0.5 * (rays.near + rays.far)).view(*size, 1)
        mean = images.pop("reach") * share
        depth = torch.where(alpha > 1e-6, (mean + middle) * rays.z_scale.view(*size, 1), torch.zeros_like(alpha))
        images["variance"] = (images.pop("square") * share - mean.square()).clamp(min=0.0)
        normal = nn.functional.normalize(images["normal"], dim=-1) if "normal" in images else None
        return Render(rgb, alpha, depth, normal, images)

    def behind(self, given: Tensor, directions: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return what is seen behind the object; see `Background.forward`."""
        return self.background(given, directions, generator)  # type: ignore[no-any-return]

    def sample(self, rays: Rays, jitter: Tensor) -> Samples:
        """Return where `rays` ask the field; `jitter` [R] in [0, 1)."""
        settings = self.config.sampling
        with torch.no_grad():
            if settings.mode == "occupancy":
                return self.occupancy.sample(rays, settings.count, jitter)
            if settings.mode == "uniform":
                return samples.uniform(rays, settings.count, jitter)
            share = torch.linspace(0, 1, settings.coarse + 1, device=jitter.device)
            edges = rays.near[:, None] + share * (rays.far - rays.near)[:, None]
            coarse = samples.from_edges(edges)
            depths = self.coarse_depths(rays.at(coarse.ray, coarse.distance), coarse.width)
            weights, _ = integrate.weights_of(depths, coarse.ray, len(rays), self.config.backend)
            shift = jitter - 0.5
            return samples.from_edges(proposal.resample(edges, weights.view(len(rays), -1), settings.count, shift))

    def use_less_memory(self) -> bool:
        """Draw in chunks half as large as the largest so far; return False once they have `SMALLEST_CHUNK` samples."""
        smaller = max(min(self._drawn, self.samples_at_a_time) // 2, SMALLEST_CHUNK)
        is_smaller, self.samples_at_a_time = smaller < self.samples_at_a_time, min(smaller, self.samples_at_a_time)
        return is_smaller

    def _pixels(self, rays: Rays, generator: torch.Generator | None) -> Pixels:
        if generator is None:
            jitter = torch.full_like(rays.near, 0.5)
        else:
            jitter = torch.rand(len(rays), generator=generator).to(rays.near.device)
        found = self.sample(rays, jitter)
        self._drawn = len(found)
        pieces = list(samples.chunks(found, len(rays), self.samples_at_a_time))
        if len(pieces) == 1:
            return self._sum(rays, found)
        parts = []
        for some, piece in pieces:
            if torch.is_grad_enabled():
                parts.append(checkpoint(self._sum, rays[some], piece, use_reentrant=False, preserve_rng_state=False))
            else:
                parts.append(self._sum(rays[some], piece))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _sum(self, rays: Rays, found: Samples) -> Pixels:
        """Return the sums over each ray of its samples."""
        count, ray = len(rays), found.ray
        directions = rays.directions.index_select(0, ray)
        field = self.evaluate(rays.at(ray, found.distance), directions, found.width)
        weights, _ = integrate.weights_of(field.depths, ray, count, self.config.backend)
        middle = 0.5 * (rays.near + rays.far)
        place = (found.distance - middle.index_select(0, ray))[:, None]
        columns = {"rgb": field.colours, "alpha": torch.ones_like(place), "reach": place, "square": place.square()}
        if field.normals is not None:
            columns["normal"] = field.normals
        sums = integrate.accumulate(weights, torch.cat(list(columns.values()), dim=1), ray, count)
        pixels = dict(zip(columns, sums.split([c.shape[1] for c in columns.values()], dim=1), strict=True))
        diagonal = 2.0 * 3.0**0.5 * self.config.radius
        spread = integrate.distortion(weights, place[:, 0] / diagonal, found.width / diagonal, ray, count)
        pixels["distortion"] = spread[:, None]
        if field.normals is not None:
            away = regularisers.facing_away(field.normals, directions)[:, None]
            pixels["orientation"] = integrate.accumulate(weights.detach(), away, ray, count)
        if field.eikonal is not None:
            both = torch.stack([field.eikonal, torch.ones_like(field.eikonal)], dim=1)
            pixels["eikonal"] = integrate.accumulate(torch.ones_like(weights), both, ray, count)
        return pixels

    # ---- looking after the parameters

    def regularisers(self, render: Render) -> Iterator[tuple[str, Tensor]]:
        """Yield the terms named in the configuration's REGULARISERS; "orientation" needs normals."""
        extras, alpha = render.extras, render.alpha
        yield "opacity", regularisers.opacity(alpha)
        yield "entropy", regularisers.entropy(alpha)
        yield "distortion", extras["distortion"].mean()
        yield "z_variance", regularisers.z_variance(extras["variance"], alpha)
        if "orientation" in extras:
            yield "orientation", regularisers.over_hits(extras["orientation"], alpha, 0.0)
        if "eikonal" in extras:
            yield "eikonal", regularisers.mean_of(extras["eikonal"][..., 0], extras["eikonal"][..., 1])

    def parameter_groups(self, learning_rates: Mapping[str, float]) -> list[dict[str, Any]]:
        """Return one optimiser group a kind of parameter that has any; `learning_rates` must name each kind."""
        groups = {name: self._parameters_of(name) for name in self.groups}
        return [group for group in optimiser_groups(groups, self.groups, learning_rates) if group["params"]]

    def _parameters_of(self, group: str) -> list[nn.Parameter]:
        owner = self.background if group == "background" else getattr(self.field, group)
        return list(owner.parameters())

    def after_step(self, step: int, optimiser: Any, render: Render) -> dict[str, float]:
        """Count optimiser step `step` (0, 1, ...); let further levels speak; look for empty space now and then."""
        self._set_step(step + 1)
        settings = self.config.occupancy
        if self.config.sampling.mode == "occupancy" and self.step % settings.every == 0:
            share = 1.0 if self.step <= settings.warm_up else settings.share
            self.occupancy.update(self.occupancy_at, self._generator(), share, self.centred)
        return {}

    def refresh_occupancy(self, rounds: int = 4) -> None:
        """Forget the grid of empty space and look at every cell `rounds` times (after other parameters were loaded)."""
        self.occupancy.values.zero_()
        generator = self._generator()
        for _ in range(rounds):
            self.occupancy.update(self.occupancy_at, generator, centred=self.centred)

    def _set_step(self, step: int) -> None:
        self.step = step
        self.field.encoding.set_active_levels(active_levels(self.config.encoding, step))  # type: ignore[union-attr,operator]

    def _generator(self) -> torch.Generator:
        """Return the generator of the present step."""
        return torch.Generator().manual_seed(self.seed * _STEP + self.step)

    def get_extra_state(self) -> Tensor:
        """Return [2] int64: the step and the seed, for the state dict."""
        return torch.tensor([self.step, self.seed], dtype=torch.int64)

    def set_extra_state(self, state: Tensor) -> None:
        """Take over what `get_extra_state` returned."""
        step, self.seed = (int(number) for number in state.tolist())
        self._set_step(step)
