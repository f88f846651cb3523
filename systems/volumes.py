"""The radiance and distance fields of a recipe: fresh, from a checkpoint, from the asset of another stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from renderers.base import Renderer
from renderers.nerf import NerfRenderer, nerf_renderer
from renderers.sdf import SdfRenderer, sdf_renderer
from renderers.volume.renderer import VolumeRenderer
from sds3d.config import Recipe
from sds3d.config.nerf import SHAPES
from sds3d.priors.base import Prior
from systems.latents import colour, latents_of
from systems.randomness import generator_for

FACTORIES: dict[str, Callable[..., VolumeRenderer]] = {"nerf": nerf_renderer, "sdf": sdf_renderer}
FIT_STEPS, FIT_POINTS = 200, 2048
"""Steps, and points a step, in which a field learns the surface it takes over."""
BAND = 0.08
"""Half the points lie about so near to the surface, world units."""
INSIDE_DEPTH = 4.0
"""Optical depth of one cell of the grid of empty space inside an object that becomes a radiance field."""


def fresh(recipe: Recipe, number: int, prior: Prior | None = None) -> VolumeRenderer:
    """Return the field of asset `number` at its start; with latents it needs the `prior` they belong to.

    Raises: AssetError if its file cannot be read.
    """
    config = recipe.renderer
    renderer = _new(recipe, number, prior.latent_shape()[0] if prior is not None and latents_of(recipe) else None)
    if prior is not None and isinstance(renderer, NerfRenderer):
        colour(renderer, recipe, prior)
    if config.init not in SHAPES:
        from sds3d.export.start import read_start_mesh
        from sds3d.meshing.distance import SignedDistance

        mesh, _ = read_start_mesh(config.init, config.init_size)
        learn_surface(renderer, SignedDistance(mesh), generator_for(recipe.seed, "start", number))
    return renderer


def _new(recipe: Recipe, number: int, latents: int | None = None) -> VolumeRenderer:
    more = () if latents is None else (latents,)
    return FACTORIES[recipe.renderer.kind](recipe.renderer, generator_for(recipe.seed, "start", number), *more)


def restore(recipe: Recipe, saved: dict[str, Any], number: int) -> VolumeRenderer:
    """Return asset `number` with everything `saved` by its `state_dict`."""
    mixing = saved.get("field.mixing.weight")  # only fields of latents have it
    renderer = _new(recipe, number, None if mixing is None else mixing.shape[1])
    renderer.load_state_dict(saved)
    return renderer


def take_over(
    recipe: Recipe, before: Renderer, made_by: Recipe, number: int, prior: Prior | None = None
) -> VolumeRenderer:
    """Return the field of the stage before if it fits, else a new field that has learnt the surface of that asset.

    A field of latents fits a stage of colours: the linear layer that shows its latents is then trained along.
    """
    is_nerf = isinstance(before, NerfRenderer) and recipe.renderer.kind == "nerf"
    renderer = _new(recipe, number, before.field.latents if is_nerf else None)  # type: ignore[union-attr,arg-type]
    if type(before) is type(renderer):
        saved, own = before.state_dict(), renderer.state_dict()
        if saved.keys() == own.keys() and all(saved[name].shape == own[name].shape for name in saved):
            renderer.load_state_dict(saved)
            renderer._set_step(0)  # schedules of the field count the steps of their own stage
            return renderer
    from sds3d.meshing.distance import SignedDistance
    from systems.assets import mesh_of

    renderer = fresh(recipe, number, prior)
    learn_surface(renderer, SignedDistance(mesh_of(before, made_by)), generator_for(recipe.seed, "start", number))
    return renderer


def learn_surface(renderer: VolumeRenderer, surface: Any, generator: torch.Generator, steps: int = FIT_STEPS) -> None:
    """Let a field learn the distances and colours of `surface` (see `SignedDistance`), on the CPU.

    A radiance field learns a density that is high inside and 0 outside, soft over about a cell at the surface.
    """
    radius = renderer.config.radius
    optimiser = torch.optim.Adam(renderer.field.parameters(), lr=0.01)
    for _ in range(steps):
        points = _points(surface, radius, generator)
        distance, colours = (torch.from_numpy(values) for values in surface(points.numpy()))
        near = (distance.abs() < BAND).float()[:, None]
        loss = _shape_loss(renderer, points, distance) + (near * (_colours(renderer, points) - colours).square()).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    renderer.refresh_occupancy()


def _colours(renderer: VolumeRenderer, points: Tensor) -> Tensor:
    field = renderer.field
    return field.rgb(points) if isinstance(renderer, NerfRenderer) else field(points)[1]  # type: ignore[operator,no-any-return]


def _points(surface: Any, radius: float, generator: torch.Generator) -> Tensor:
    """Return points [FIT_POINTS, 3], one half all over the box, the other near the surface."""
    half = FIT_POINTS // 2
    everywhere = (torch.rand(half, 3, generator=generator) * 2 - 1) * radius
    chosen = torch.randint(len(surface.places), (half,), generator=generator)
    near = torch.from_numpy(surface.places[chosen.numpy()]).float()
    return torch.cat([everywhere, near + torch.randn(half, 3, generator=generator) * BAND / 2]).clamp(-radius, radius)


def _shape_loss(renderer: VolumeRenderer, points: Tensor, distance: Tensor) -> Tensor:
    if isinstance(renderer, SdfRenderer):
        return nn.functional.smooth_l1_loss(renderer.field.distance(points), distance, beta=0.05)
    assert isinstance(renderer, NerfRenderer)
    cell = renderer.occupancy.cell
    opacity = 1.0 - torch.exp(-renderer.field.density(points) * cell)
    wanted = (-distance / cell + 0.5).clamp(0.0, 1.0) * (1.0 - torch.exp(torch.tensor(-INSIDE_DEPTH)))
    return nn.functional.mse_loss(opacity, wanted)
