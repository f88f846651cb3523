"""Triplanes as pictures: stateless, all objects of a batch at once, by volume rendering.

`render_volume(assets, cameras, background, ...)` has no parameters of its own: those are the generator's. Meshes are drawn
by `renderers.triplane_mesh`; `renderers.triplane_object` holds one finished object for everything that wants a `Renderer`.
"""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from renderers.base import Render
from renderers.fields.sdf import neus_depth, volsdf_density
from renderers.triplane_grid import GridField
from renderers.triplane_sampling import geometry_features, sample_planes, texture_features
from renderers.volume import integrate, proposal, samples
from renderers.volume.rays import Rays, camera_rays
from renderers.volume.regularisers import eikonal, opacity
from renderers.volume.samples import Samples
from sds3d.cameras import Cameras
from sds3d.config.generator_views import VolumeConfig
from sds3d.errors import ShapeError
from sds3d.generators.base import Planes
from sds3d.generators.heads import FieldHeads


@dataclass(frozen=True)
class Field:
    """The field of B objects.

    Points are [B, N, 3] in world units; outside of the box features are zero. `sdf` is the head's answer plus the distance
    from a sphere, positive outside.
    """

    planes: Planes

    def __len__(self) -> int:
        return len(self.planes)

    def unit(self, points: Tensor) -> Tensor:
        """Return points in units of the box."""
        return points / self.planes.radius

    def sdf(self, points: Tensor, twice: bool = False) -> Tensor:
        """Return signed distances [B, N], world units."""
        return self._distance(self._shape(points, twice), points)

    def colour(self, points: Tensor) -> Tensor:
        """Return colours [B, N, 3] in [0, 1] up to the heads' margin."""
        features = sample_planes(self.planes.texture, self.unit(points))
        return self.heads.colour(texture_features(features))

    def both(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return signed distances [B, N] and colours [B, N, 3]."""
        return self.sdf(points), self.colour(points)

    def nodes(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return signed distances [B, N] and raw moves [B, N, 3] of grid nodes."""
        features = self._shape(points, False)
        return self._distance(features, points), self.heads.moves(features)

    def with_gradient(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return signed distances [B, N] and their gradient [B, N, 3], which is differentiable in the planes."""
        with torch.enable_grad():
            places = points.detach().requires_grad_()
            distance = self.sdf(places, twice=True)
            (gradient,) = torch.autograd.grad(distance.sum(), places, create_graph=True)
        return distance, gradient

    @property
    def heads(self) -> FieldHeads:
        """The networks that read the planes."""
        return self.planes.heads  # type: ignore[return-value]

    def _shape(self, points: Tensor, twice: bool) -> Tensor:
        return geometry_features(sample_planes(self.planes.geometry, self.unit(points), twice))

    def _distance(self, features: Tensor, points: Tensor) -> Tensor:
        sphere = (points.square().sum(dim=-1) + 1e-12).sqrt() - self.planes.start_radius
        return self.planes.within_reach(self.heads.distance(features)) + sphere


def field_of(assets: Planes, config: VolumeConfig) -> Field | GridField:
    """Return the field of some objects as the configuration wants it read."""
    return GridField.of(assets) if config.field == "grid" else Field(assets)


def shrink(x: Tensor, share: float) -> Tensor:
    """Return `x` with its gradient multiplied by `share`; 0 detaches. Source: the dual renderers of TriplaneTurbo."""
    if share == 1.0:
        return x
    return x.detach() if share == 0.0 else share * x + (1.0 - share) * x.detach()


def with_surface(distance: Tensor, depth: float) -> Tensor:
    """Return `distance` [B, N] of each object's samples, shifted as far as it takes that one lies `depth` inside, one outside.

    An object whose smallest distance is larger has vanished: its opacity, and so every gradient, is zero to working precision,
    and it never comes back. Shifted, it is drawn as a speck where it is nearest to being there. The shift carries no gradient;
    distances keep theirs. Objects with a surface are not touched. The same for objects that fill the box.
    """
    least, most = distance.detach().amin(dim=1, keepdim=True), distance.detach().amax(dim=1, keepdim=True)
    return distance - (least + depth).clamp(min=0.0) + (depth - most).clamp(min=0.0)


def render_volume(
    assets: Planes,
    cameras: Cameras,
    background: Tensor,
    config: VolumeConfig,
    jitter: Tensor | None = None,
    colour_share: float = 1.0,
) -> Render:
    """Draw B objects from B * V cameras, object-major: cameras[V b : V (b + 1)] look at object b.

    Args:
        background: [B * V, 3] in [0, 1].
        jitter: [B * V * H * W] in [0, 1), where in its interval a ray samples; None: in the middle.
        colour_share: factor on the gradient of the colours (not of the opacity).
    Returns: a `Render`; extras hold "eikonal" and "sparsity" (0-dim) where the configuration asks for normals, else only the
        latter. `depth` is the expected camera z, 0 where nothing was hit.
    Limits: samples are the same number a ray whatever the object; no empty space is skipped.
    """
    return render_field(field_of(assets, config), assets.radius, cameras, background, config, jitter, colour_share)


def render_field(
    field: Field | GridField,
    radius: float,
    cameras: Cameras,
    background: Tensor,
    config: VolumeConfig,
    jitter: Tensor | None = None,
    colour_share: float = 1.0,
) -> Render:
    """Draw the B objects of a field in the box [-radius, radius]^3; the rest as `render_volume`."""
    check_views(field, cameras, background)
    rays = camera_rays(cameras, radius)
    middle = jitter if jitter is not None else torch.full_like(rays.near, 0.5)
    sums, gradient = _sums(field, rays, config, middle, colour_share)
    pixels = sums.view(len(cameras), cameras.height, cameras.width, -1)
    alpha = pixels[..., 3:4]
    z_scale = rays.z_scale.view(*pixels.shape[:3], 1)
    depth = torch.where(alpha > 1e-6, pixels[..., 4:5] / alpha.clamp(min=1e-6) * z_scale, torch.zeros_like(alpha))
    extras = {"sparsity": opacity(alpha)}
    if gradient is not None:
        extras["eikonal"] = eikonal(gradient).mean()
    normal = None if gradient is None else nn.functional.normalize(pixels[..., 5:8], dim=-1)
    rgb = pixels[..., :3] + (1.0 - alpha) * background[:, None, None]
    return Render(rgb, alpha, depth, normal, extras)


def check_views(assets: Sized, cameras: Cameras, background: Tensor) -> None:
    """Raise ShapeError unless every object has as many cameras, and every camera a background [3]."""
    if len(assets) == 0 or len(cameras) % len(assets):
        raise ShapeError("cameras", f"[{len(assets)} * V] (as many for each object)", (len(cameras),))
    if background.shape != (len(cameras), 3):
        raise ShapeError("background", f"[{len(cameras)}, 3]", tuple(background.shape))


def _sums(
    field: Field | GridField, rays: Rays, config: VolumeConfig, jitter: Tensor, colour_share: float
) -> tuple[Tensor, Tensor | None]:
    """Return sums over each ray [R, 5 or 8] (colour, opacity, distance, normal) and the gradients [N, 3] of the samples."""
    found = _samples(field, rays, config, jitter)
    points = rays.at(found.ray, found.distance).view(len(field), -1, 3)
    gradient = None
    if isinstance(field, Field) and config.normals:
        distance, gradient = field.with_gradient(points)
        gradient, colour = gradient.reshape(-1, 3), field.colour(points)
    else:
        distance, colour = field.both(points)
    if config.keep_surface:
        distance = with_surface(distance, 1.0 / config.sharpness)
    directions = rays.directions.index_select(0, found.ray)
    depths = _depths(distance.reshape(-1), gradient, directions, found.width, config)
    weights, _ = integrate.weights_of(depths, found.ray, len(rays))
    colours = shrink(colour.reshape(-1, 3), colour_share)
    values = [colours, torch.ones_like(found.distance)[:, None], found.distance[:, None]]
    values += [] if gradient is None else [nn.functional.normalize(gradient, dim=-1)]
    return integrate.accumulate(weights, torch.cat(values, dim=1), found.ray, len(rays)), gradient


def _samples(field: Field | GridField, rays: Rays, config: VolumeConfig, jitter: Tensor) -> Samples:
    """Return where the rays ask the field: equally spaced, or where a first pass found the surface."""
    if config.coarse == 0:
        return samples.uniform(rays, config.samples, jitter)
    with torch.no_grad():
        share = torch.linspace(0, 1, config.coarse + 1, device=jitter.device)
        edges = rays.near[:, None] + share * (rays.far - rays.near)[:, None]
        first = samples.from_edges(edges)
        points = rays.at(first.ray, first.distance).view(len(field), -1, 3)
        depths = volsdf_density(field.sdf(points).reshape(-1), _sharpness(config, jitter)) * first.width
        weights, _ = integrate.weights_of(depths, first.ray, len(rays))
        refined = proposal.resample(edges, weights.view(len(rays), -1), config.samples, jitter - 0.5)
    return samples.from_edges(refined)


def _depths(
    distance: Tensor, gradient: Tensor | None, directions: Tensor, width: Tensor, config: VolumeConfig
) -> Tensor:
    """Return optical depths [N] by the rule of the configuration."""
    sharpness = _sharpness(config, distance)
    if config.rule == "neus":
        cosine = torch.full_like(distance, -1.0) if gradient is None else (gradient * directions).sum(dim=-1)
        return neus_depth(distance, cosine, width, sharpness)
    return volsdf_density(distance, sharpness) * width


def _sharpness(config: VolumeConfig, like: Tensor) -> Tensor:
    return torch.full((), config.sharpness, device=like.device, dtype=like.dtype)
