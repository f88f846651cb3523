"""The meshes that get a material: fresh, from a file, from a checkpoint, from the asset of another stage; and to files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from renderers.base import Renderer
from renderers.bump import bent
from renderers.pbr_mesh import PbrMeshRenderer, material_texture
from renderers.surface_conversion import sphere_mesh
from sds3d.config import Recipe
from sds3d.config.pbr import TOYBOX, PbrMeshConfig
from sds3d.errors import AssetError, ConfigError
from sds3d.export.axes import linear_to_srgb
from sds3d.meshing.mesh import Material, Mesh
from sds3d.priors.base import Prior
from systems.randomness import generator_for

SPHERE_RESOLUTION = 48


def fresh(recipe: Recipe, number: int, prior: Prior | None = None) -> PbrMeshRenderer:
    """Return asset `number` at its start, its mesh without a material of its own.

    Raises: AssetError if its file cannot be read or has no surface; ConfigError if ControlNets and conditions do not fit.
    """
    check_conditions(recipe)
    config: Any = recipe.renderer
    return _renderer(start_mesh(config), recipe, number)


def restore(recipe: Recipe, saved: dict[str, Any], number: int) -> PbrMeshRenderer:
    """Return asset `number` with everything `saved` by its `state_dict`; the mesh comes from there, not from a file."""
    renderer = _renderer(sphere_mesh(0.5, 8), recipe, number)
    renderer.load_state_dict(saved)
    return renderer


def take_over(
    recipe: Recipe, before: Renderer, made_by: Recipe, number: int, prior: Prior | None = None
) -> PbrMeshRenderer:
    """Return the surface of the stage before, with its material if it has one, else a new one (its colours are not used)."""
    check_conditions(recipe)
    old, new = getattr(made_by.renderer, "texture", None), getattr(recipe.renderer, "texture", None)
    if isinstance(before, PbrMeshRenderer) and old == new:
        renderer = restore(recipe, before.state_dict(), number)
        renderer.steps = 0
        return renderer
    from systems.assets import mesh_of

    return _renderer(mesh_of(before, made_by), recipe, number)


def start_mesh(config: PbrMeshConfig) -> Mesh:
    """Return the mesh that `config.init` names. Raises: AssetError if it cannot be read or has no surface."""
    if config.init == "sphere":
        return sphere_mesh(config.init_radius, SPHERE_RESOLUTION)
    if config.init.startswith(TOYBOX):
        from sds3d.meshing.from_toybox import mesh_from_toy
        from sds3d.toybox.captions import Description
        from sds3d.toybox.dataset import build

        what = Description(noun=config.init.removeprefix(TOYBOX), color="white")
        return mesh_from_toy(build(what, np.random.default_rng(0)))
    from sds3d.export.start import read_start_mesh

    mesh, _ = read_start_mesh(config.init, config.init_size)
    if not len(mesh.faces) or not np.isfinite(mesh.vertices).all():
        raise AssetError(
            f"'{config.init}' has {len(mesh.faces)} triangles that can be used. A material needs a surface: give a mesh with "
            "triangles and finite vertices.",
            config.init,
        )
    return mesh


def check_conditions(recipe: Recipe) -> None:
    """Raise ConfigError if the prior has ControlNets but the renderer draws nothing for them, or the other way round."""
    config: Any = recipe.renderer
    has_networks, drawn = bool(recipe.prior.controlnets), config.conditions
    if has_networks and not drawn:
        raise ConfigError(
            f"The prior has the ControlNets {', '.join(recipe.prior.controlnets)}, but renderer.conditions is empty, so they "
            "have nothing to look at. Give renderer.conditions, e.g. [depth, normal, light], or leave the ControlNets out.",
            "renderer.conditions",
        )
    if drawn and not has_networks:
        raise ConfigError(
            f"renderer.conditions draws {', '.join(drawn)} for ControlNets, but prior.controlnets is empty. Give a ControlNet "
            f"of {config.control_channels} channels, or renderer.conditions=[].",
            "prior.controlnets",
        )


def _renderer(mesh: Mesh, recipe: Recipe, number: int) -> PbrMeshRenderer:
    config: Any = recipe.renderer
    generator = generator_for(recipe.seed, "start", number)
    texture = material_texture(config, generator)
    seed = int(torch.randint(2**31, (), generator=generator))
    vertices, faces = torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces)
    return PbrMeshRenderer(vertices, faces, texture, config, seed=seed)


@torch.no_grad()
def with_textures(renderer: PbrMeshRenderer, mesh: Mesh, size: int) -> Mesh:
    """Return an unwrapped copy of the asset's `mesh` with pictures of its material, `size` texels a side.

    Base colour in sRGB; metalness and roughness; occlusion and normals where the configuration has them. Without `bump` normals
    are those of the vertices, so there is no picture of them.
    """
    from sds3d.meshing.bake import find_texels, paint
    from sds3d.meshing.unwrap import unwrap
    from systems.radiance_to_pbr_export import tangent_normals

    flat = unwrap(mesh, size).mesh
    texels = find_texels(flat, size)
    device = renderer.vertices.device
    points = torch.from_numpy(texels.interpolate(flat.vertices, flat.faces)).to(device)
    normals = torch.nn.functional.normalize(
        torch.from_numpy(texels.interpolate(flat.normals, flat.faces)).to(device), dim=1
    )
    found = {name: value.cpu().numpy() for name, value in _in_pieces(renderer, points).items()}
    packed = np.concatenate([found["metallic"], found["roughness"]], axis=1)
    occlusion: NDArray[Any] | None = None
    if renderer.config.occlusion:
        occlusion = paint(texels, renderer.openness_at(points, normals).cpu().numpy())
    relief: NDArray[Any] | None = None
    if "bump" in found:
        turned = bent(normals.cpu(), torch.from_numpy(found["bump"]), renderer.config.bump).numpy()
        relief = paint(texels, 0.5 + 0.5 * tangent_normals(flat, texels, normals.cpu().numpy(), turned))
    material = Material(
        base_color=linear_to_srgb(paint(texels, found["base_colour"])),
        metallic_roughness=paint(texels, packed),
        normal=relief,
        occlusion=occlusion,
    )
    return replace(flat, material=material)


def _in_pieces(renderer: PbrMeshRenderer, points: torch.Tensor, most: int = 1 << 16) -> dict[str, torch.Tensor]:
    parts = [renderer.material_at(some) for some in points.split(most)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
