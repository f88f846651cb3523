"""Text to material: M26 (the method of dreammat and what reaches its network), runs from files, and the point of it all."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from renderers.pbr_mesh import PbrMeshRenderer
from renderers.surface_conversion import sphere_mesh
from sds3d.config import Recipe, load_recipe
from sds3d.errors import AssetError, ConfigError
from sds3d.export.mesh import write_mesh
from sds3d.guidance.guide import Guidance
from sds3d.meshing.mesh import Mesh
from sds3d.metrics.baked_light import baked_light
from sds3d.priors.base import Prior, Query
from sds3d.run import RunFolder
from sds3d.shading.colour import linear_from_srgb, srgb_from_linear
from sds3d.shading.lights import open_light
from systems import materials
from systems.build import build_system
from systems.text_to_3d import export, generate, resume

SIZE = 16
ALBEDO = (0.5, 0.15, 0.1)
SMALL = (
    f"cameras.size={SIZE}", "cameras.views=2", "renderer.light_resolution=8", "renderer.occlusion=false",
    "renderer.texture.kind=grid", "renderer.texture.resolution=4", "renderer.metallic=[0, 0]",
    "renderer.view_transform=srgb", "background.random_fraction=0", "prompt.view_dependent=false", "prompt.negative=shiny",
    "optimiser.learning_rates.texture=0.1",
)  # fmt: skip


class LitPrior(Prior):
    """A judge in closed form: it knows that everything is matt and of colour `ALBEDO`, and remembers what it was asked.

    Told the light (22 condition channels), it wants the picture this has in that light; else in an even light, whatever the
    picture has. Only "y" knows the colour: other texts want grey.
    """

    image_size, num_timesteps, has_camera, device = SIZE, 1000, False, torch.device("cpu")

    def __init__(self, is_told: bool = True) -> None:
        self.control_channels = 22 if is_told else 0
        self.queries: list[Query] = []
        self.texts: list[str] = []

    def encode(self, rgb: Tensor) -> Tensor:
        return rgb.permute(0, 3, 1, 2)

    def decode(self, z0: Tensor) -> Tensor:
        return z0.permute(0, 2, 3, 1)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        angle = (0.5 * torch.pi * (t.float() + 1) / (self.num_timesteps + 1)).view(-1, 1, 1, 1)
        return angle.cos(), angle.sin()

    def text(self, texts: Sequence[str]) -> Tensor:
        self.texts += [text for text in texts if text not in self.texts]
        return torch.tensor([self.texts.index(text) for text in texts]).float().view(-1, 1, 1)

    def mean(self, query: Query) -> Tensor:
        """Return the picture [B, 3, H, W] that the judge wants."""
        white = torch.full_like(query.z_t, 0.7)
        if query.control is not None:
            white = query.control[:, 10:13]  # not metal, rough
        words = [self.texts[round(float(number))] for number in query.text[:, 0, 0]]
        colour = torch.tensor([ALBEDO if "ball" in text else (0.3, 0.3, 0.3) for text in words])
        return srgb_from_linear(linear_from_srgb(white) * colour[:, :, None, None])

    def predict(self, queries: Sequence[Query]) -> list[Tensor]:
        self.queries += queries
        levels = [self.alpha_sigma(query.t) for query in queries]
        return [(q.z_t - alpha * self.mean(q)) / sigma for q, (alpha, sigma) in zip(queries, levels, strict=True)]


def recipe_of(*keys: str, told: bool = True, steps: int = 4) -> Recipe:
    conditions = ("renderer.conditions=[depth, normal, light]",) if told else ("renderer.conditions=[]",)
    every = (*SMALL, *conditions, f"training.steps={steps}", "renderer.init=sphere", *keys)
    return load_recipe("dreammat", ["tiny"], every, {"prompt.text": ("the prompt", "a ball")})


def system_of(prior: Prior, recipe: Recipe):
    """The system of a recipe whose judge is `prior`; the recipe names no ControlNet, so the check is left out."""
    return build_system(recipe, prior_of=lambda *_: prior)


@pytest.fixture(autouse=True)
def _no_network_needed(monkeypatch, request):
    if request.node.name != "test_networks_and_conditions_go_together":
        monkeypatch.setattr(materials, "check_conditions", lambda recipe: None)


@pytest.mark.parametrize(("step", "weight"), [(0, 1.0), (1000, 0.75), (2000, 0.5), (2999, 0.5)])
def test_csd_is_prompt_less_negative_and_unprompted(step, weight):
    """M26: grad = w(t) [y - w n - (1 - w) 0] with w falling from 1 to 1/2 in 2000 steps; w(t) = 1 - alpha bar."""
    recipe = load_recipe("dreammat", [], [], {"prompt.text": ("the prompt", "a ball")})
    prior, generator = LitPrior(), torch.Generator().manual_seed(step)
    guide = Guidance(prior, recipe.guidance, recipe.training.steps)
    from sds3d.cameras import turntable

    cameras, z0 = turntable(2, SIZE, 10.0, 3.0, 35.0), torch.rand(2, 3, SIZE, SIZE, generator=generator)
    control = torch.rand(2, 22, SIZE, SIZE, generator=generator)
    draws = guide.draw(z0, step, generator)
    low, high = (200, 800) if step < 500 else (20, 500)
    assert bool(((draws.t >= low) & (draws.t <= high)).all())
    gradient, _ = guide.gradient(z0, recipe.prompt.build(), cameras, step, draws, control=control)
    alpha, sigma = prior.alpha_sigma(draws.t)
    said: dict[str, Tensor] = {}
    for query in prior.queries:
        text = prior.texts[round(float(query.text[0, 0, 0]))]
        key = "y" if "ball" in text else "n" if text.startswith("oversaturated") else "0"
        said[key] = (query.z_t - alpha * prior.mean(query)) / sigma
        assert query.control is not None and torch.equal(query.control, control)  # all predictions are told the light
    expected = sigma**2 * (said["y"] - weight * said["n"] - (1.0 - weight) * said.get("0", torch.zeros(())))
    assert torch.allclose(gradient, expected, atol=1e-5) and set(said) == (
        {"y", "n"} if weight == 1.0 else {"y", "n", "0"}
    )


def test_a_step_tells_the_network_the_geometry_and_the_light_of_each_view():
    prior = LitPrior()
    system = system_of(prior, recipe_of())
    loss, _, render = system.losses(0, "cpu")
    loss.backward()
    assert prior.queries and all(query.control.shape == (2, 22, SIZE, SIZE) for query in prior.queries)
    assert torch.equal(prior.queries[0].control, render.extras["control"])
    assert all(float(p.grad.abs().max()) > 0 for p in system.renderer.parameters())


def test_a_network_that_takes_no_pictures_gets_none():
    prior = LitPrior(is_told=False)
    system_of(prior, recipe_of(told=True)).losses(0, "cpu")
    assert prior.queries and all(query.control is None for query in prior.queries)


def trained(prior: Prior, *keys: str, told: bool, steps: int = 40) -> PbrMeshRenderer:
    """A ball of a run of SDS without guidance, whose only aim is the judge's picture."""
    sds = ("guidance.method=sds", "guidance.guidance_scale=1", "guidance.weight=uniform", "guidance.gain=1")
    system = system_of(prior, recipe_of(*sds, *keys, told=told, steps=steps))
    optimiser = system.configure_optimizers()
    for step in range(steps):
        loss, _, render = system.losses(step, "cpu")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        system.renderer.after_step(step, optimiser, render)
    return system.renderer


def baked(asset: PbrMeshRenderer) -> tuple[float, float]:
    """Return the stops of light in the base colour, and its mean error."""
    at = asset.vertices[asset.vertices[:, 2].abs() < 0.5]  # poles are seldom seen
    normal = torch.nn.functional.normalize(at, dim=1)
    with torch.no_grad():
        base = asset.material_at(at)["base_colour"]
    light = open_light("studio", 8).prefiltered().diffuse(normal)
    return baked_light(base, normal, light).stops, float((base - torch.tensor(ALBEDO)).abs().mean())


@pytest.mark.slow
def test_a_judge_that_knows_the_light_leaves_it_out_of_the_base_colour():
    """The point of DreamMat: known random lights against one fixed light that the judge knows nothing of."""
    clean, error = baked(trained(LitPrior(), "renderer.mode=simple", told=True))
    fixed = ("renderer.lights=[studio]", "renderer.turn_lights=false", "renderer.mode=simple")
    dirty, _ = baked(trained(LitPrior(is_told=False), *fixed, told=False))
    assert clean < 0.25 and error < 0.06, (clean, error)
    assert dirty > 2.0 * clean and dirty > 0.25, (clean, dirty)


# ---- files and checkpoints


@pytest.mark.slow
def test_a_run_from_a_file_is_resumed_and_exported(tmp_path: Path):
    """From mesh.glb to mesh.glb with pictures of its material; the vertices stay; a break changes nothing."""
    import trimesh

    mesh = sphere_mesh(0.5, 8)
    start = write_mesh(tmp_path / "start.glb", mesh)
    keys = (f"renderer.init={start}", "renderer.init_size=0.8", "export.texture_size=64", "export.size=32")
    recipe = recipe_of(*keys, "renderer.occlusion=true", "export.turntable_views=4", "guidance.negative=1", told=False)
    whole, broken = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "broken")
    quiet = {"console": Console(file=io.StringIO()), "prior_of": lambda *_: LitPrior(is_told=False)}
    for run in (whole, broken):
        run.create(recipe, {})
    generate(recipe, whole, **quiet)
    generate(recipe, broken, max_steps=2, **quiet)
    broken.recipe_file.write_bytes(whole.recipe_file.read_bytes())
    resume(broken, **quiet)
    from systems.text_to_3d import trained as opened

    first, second = (opened(run.read_recipe(), run)[0] for run in (whole, broken))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert first.steps == 4 and len(first.faces) == len(mesh.faces)
    (part,) = trimesh.load(whole.export / "mesh.glb", process=False).geometry.values()
    kept = part.visual.material
    assert kept.baseColorTexture.size == (64, 64) and kept.metallicRoughnessTexture.size == (64, 64)
    assert kept.occlusionTexture is not None and len(part.faces) == len(mesh.faces)
    assert float(np.linalg.norm(part.vertices, axis=1).max()) == pytest.approx(0.8, abs=1e-3)
    assert (whole.export / "light-turn.jpg").stat().st_size > 500
    from systems.relighting import relight

    files, line = relight(whole.path, "lamps", views=1, size=32)
    assert line == "" and files[0].is_file()  # its own materials, nothing guessed
    assert all(file.is_file() for file in export(whole, ("obj", "stl")))


def test_a_start_without_a_surface_is_refused(tmp_path: Path):
    file = tmp_path / "points.ply"
    file.write_text("ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
                    "end_header\n0 0 0\n")  # fmt: skip
    with pytest.raises(AssetError, match=r"points\.ply"):
        materials.start_mesh(recipe_of(f"renderer.init={file}").renderer)
    with pytest.raises(AssetError, match=r"nowhere\.glb"):
        materials.start_mesh(recipe_of("renderer.init=nowhere.glb").renderer)


def test_networks_and_conditions_go_together():
    recipe = load_recipe("dreammat", [], [], {"prompt.text": ("the prompt", "a ball")})
    materials.check_conditions(recipe)
    blind = recipe.model_copy(update={"renderer": recipe.renderer.model_copy(update={"conditions": ()})})
    with pytest.raises(ConfigError, match=r"renderer\.conditions is empty, so they have nothing to look at"):
        materials.check_conditions(blind)
    alone = recipe.model_copy(update={"prior": recipe.prior.model_copy(update={"controlnets": ()})})
    with pytest.raises(ConfigError, match=r"prior\.controlnets is empty. Give a ControlNet of 22 channels"):
        materials.check_conditions(alone)


def test_toybox_objects_are_meshes_and_always_the_same():
    config = recipe_of("renderer.init=toybox:mug").renderer
    first, second = materials.start_mesh(config), materials.start_mesh(config)
    assert len(first.faces) > 500 and np.array_equal(first.vertices, second.vertices)


def test_another_stage_hands_its_surface_over():
    """A mesh that was grown becomes one with a material: the same surface, a new material."""
    from renderers.surface_conversion import from_mesh
    from sds3d.config.surface import SurfaceConfig

    mesh: Mesh = sphere_mesh(0.6, 10)
    before = from_mesh(mesh, SurfaceConfig(geometry="fixed", resolution=8), torch.Generator().manual_seed(0))
    made = materials.take_over(recipe_of(), before, recipe_of(), 0)
    assert isinstance(made, PbrMeshRenderer) and len(made.faces) == len(mesh.faces)
    again = materials.take_over(recipe_of(), made, recipe_of(), 0)
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), again.parameters(), strict=True))


def test_a_normal_map_is_the_relief_of_the_material(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An analytic relief on a ball, baked, written, read by trimesh, and turned back into the world by the triangles' own
    tangents: the same normals within 4 degrees (8 bits, texels of 1/128, tangents of triangles)."""
    import trimesh

    from renderers.bump import bent
    from sds3d.export.axes import to_gltf_axes

    def relief(points: Tensor) -> Tensor:
        return 0.7 * torch.stack([(4 * points[:, 1]).sin(), (5 * points[:, 2]).cos(), (3 * points[:, 0]).sin()], dim=1)

    recipe = recipe_of("renderer.bump=0.8")
    asset = materials.fresh(recipe, 0)
    plain = asset.material_at
    monkeypatch.setattr(asset, "material_at", lambda points: {**plain(points), "bump": relief(points)})
    textured = materials.with_textures(asset, sphere_mesh(0.7, 16), 128)
    assert textured.material is not None and textured.material.normal is not None
    part = trimesh.load(write_mesh(tmp_path / "ball.glb", textured), process=False, force="mesh")
    picture = np.asarray(part.visual.material.normalTexture, np.float64)[..., :3] / 255.0 * 2.0 - 1.0
    weight = np.random.default_rng(0).dirichlet((4, 4, 4), len(part.faces))
    corners, uv, smooth = part.vertices[part.faces], part.visual.uv[part.faces], part.vertex_normals[part.faces]
    at, place, normal = ((weight[:, :, None] * values).sum(axis=1) for values in (corners, uv, smooth))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    side = picture.shape[0]  # trimesh counts v from below
    read = picture[
        np.clip(((1 - place[:, 1]) * side).astype(int), 0, side - 1),
        np.clip((place[:, 0] * side).astype(int), 0, side - 1),
    ]
    edge, step = corners[:, 1:] - corners[:, :1], uv[:, 1:] - uv[:, :1]
    along = np.einsum("fi,fid->fd", np.linalg.inv(step)[:, 0], edge)  # dP / du
    up = np.einsum("fi,fid->fd", np.linalg.inv(step)[:, 1], edge)
    along -= (along * normal).sum(axis=1, keepdims=True) * normal
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    across = np.cross(normal, along)
    across *= np.sign((across * up).sum(axis=1, keepdims=True))
    found = read[:, :1] * along + read[:, 1:2] * across + read[:, 2:] * normal
    turn = to_gltf_axes(np.eye(3))
    world, points = (torch.from_numpy(values @ turn.T).float() for values in (normal, at))
    expected = bent(world, relief(points), 0.8).numpy()
    found = (found / np.linalg.norm(found, axis=1, keepdims=True)) @ turn.T
    angle = np.rad2deg(np.arccos(np.clip((found * expected).sum(axis=1), -1, 1)))
    flat = np.rad2deg(np.arccos(np.clip((world.numpy() * expected).sum(axis=1), -1, 1)))
    assert np.median(angle) < 4.0 and np.median(flat) > 15.0, (np.median(angle), np.median(flat))
    without = materials.with_textures(materials.fresh(recipe_of(), 0), sphere_mesh(0.7, 8), 64).material
    assert without is not None and without.normal is None
