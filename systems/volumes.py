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
from systems.randomness import generator_for

FACTORIES: dict[str, Callable[[Any, torch.Generator], VolumeRenderer]] = {"nerf": nerf_renderer, "sdf": sdf_renderer}
FIT_STEPS, FIT_POINTS = 200, 2048
"""Steps, and points a step, in which a field learns the surface it takes over."""
BAND = 0.08
"""Half the points lie about so near to the surface, world units."""
INSIDE_DEPTH = 4.0
"""Optical depth of one cell of the grid of empty space inside an object that becomes a radiance field."""


def fresh(recipe: Recipe, number: int) -> VolumeRenderer:
    """Return the field of asset `number` at its start."""
    return FACTORIES[recipe.renderer.kind](recipe.renderer, generator_for(recipe.seed, "start", number))


def restore(recipe: Recipe, saved: dict[str, Any], number: int) -> VolumeRenderer:
    """Return asset `number` with everything `saved` by its `state_dict`."""
    renderer = fresh(recipe, number)
    renderer.load_state_dict(saved)
    return renderer


def take_over(recipe: Recipe, before: Renderer, made_by: Recipe, number: int) -> VolumeRenderer:
    """Return the field of the stage before if it fits, else a new field that has learnt the surface of that asset."""
    renderer = fresh(recipe, number)
    if type(before) is type(renderer):
        saved, own = before.state_dict(), renderer.state_dict()
        if saved.keys() == own.keys() and all(saved[name].shape == own[name].shape for name in saved):
            renderer.load_state_dict(saved)
            renderer._set_step(0)  # schedules of the field count the steps of their own stage
            return renderer
    from sds3d.meshing.distance import SignedDistance
    from systems.assets import mesh_of

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
        loss = _shape_loss(renderer, points, distance) + (near * (renderer.field(points)[1] - colours).square()).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    renderer.refresh_occupancy()


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
