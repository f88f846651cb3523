"""The progress map on points of a sphere with known normals: it rises where physics explains what is seen, and only there.

M21 and M22, on a toy: points with a material each, the unknown light of lamps, baked harmonics, and a
share of points that also show something no distant light explains.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from sds3d.shading import sh
from sds3d.shading.brdf import Material
from sds3d.shading.colour import to_display
from sds3d.shading.deferred import ShadeSettings, shade_points
from sds3d.shading.directions import cube_directions
from sds3d.shading.environment import EnvironmentLight
from sds3d.shading.lights import LIGHTS
from sds3d.shading.prefilter import Prefiltered
from systems.radiance_to_pbr_losses import mix

POINTS, VIEWS, BATCH, RESOLUTION = 160, 60, 640, 8
KINDS = torch.tensor(
    [[0.9, 0.6, 0.3, 0.25, 1.0], [0.3, 0.5, 0.3, 0.6, 0.0], [0.7, 0.7, 0.8, 0.5, 1.0], [0.6, 0.2, 0.1, 0.8, 0.0]]
)
DIFFUSE = torch.tensor([False, True, False, True])
UNMODELLED = 0.125
EXACT = 40.0
"""PSNR above which pictures of the toy are the same for all purposes: an error of a hundredth."""


@dataclass
class Toy:
    """What is learnt of P points, and the truth: colours [P, V, 3] of training and test views."""

    normal: Tensor
    views: tuple[Tensor, Tensor]
    truth: tuple[Tensor, Tensor]
    is_unmodelled: Tensor
    kind: Tensor
    harmonics: Tensor = field(default_factory=lambda: torch.zeros(POINTS, 16, 3, requires_grad=True))
    material: Tensor = field(default_factory=lambda: torch.zeros(POINTS, 5, requires_grad=True))
    progress: Tensor = field(default_factory=lambda: torch.full((POINTS, 1), math.log(0.01 / 0.99), requires_grad=True))
    light: EnvironmentLight = field(
        default_factory=lambda: EnvironmentLight.constant(0.5, RESOLUTION, activation="exp", learnable=True)
    )

    def raw(self, point: Tensor, view: Tensor) -> Tensor:
        """Return the baked colours [S, 3] of samples: points [S] seen from [S, 3]."""
        return 0.5 + torch.einsum("sk,skc->sc", sh.basis(view, 3), self.harmonics[point])

    def parts(
        self, point: Tensor, view: Tensor, light: Prefiltered, is_metal: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the baked colours, the physical ones and the progress of samples: points [S] seen from [S, 3]."""
        raw = self.raw(point, view)
        numbers = self.material[point].sigmoid()
        metallic = torch.ones_like(numbers[:, 4:]) if is_metal else numbers[:, 4:]
        material = Material(numbers[:, :3], numbers[:, 3:4], metallic)
        physical = shade_points(material, self.normal[point], view, light, ShadeSettings())
        return raw, to_display(physical.rgb, "srgb"), self.progress[point].sigmoid()


def make() -> Toy:
    generator = torch.Generator().manual_seed(0)
    normal = torch.nn.functional.normalize(torch.randn(POINTS, 3, generator=generator), dim=-1)
    kind = torch.arange(POINTS) % 4
    is_unmodelled = torch.rand(POINTS, generator=generator) < UNMODELLED
    light = EnvironmentLight(LIGHTS["lamps"](cube_directions(RESOLUTION))).prefiltered()
    phase, colour = 6.0 * torch.rand(POINTS, 1, 1, generator=generator), torch.rand(POINTS, 1, 3, generator=generator)
    views, truth = [], []
    for _ in range(2):
        view = torch.nn.functional.normalize(torch.randn(POINTS, VIEWS, 3, generator=generator), dim=-1)
        view = torch.where((view * normal[:, None]).sum(-1, keepdim=True) < 0, -view, view)
        values = KINDS[kind][:, None].expand(-1, VIEWS, -1)
        material = Material(values[..., :3], values[..., 3:4], values[..., 4:])
        shown = shade_points(material, normal[:, None].expand_as(view), view, light, ShadeSettings())
        far = to_display(shown.rgb, "srgb").clamp(0, 1)
        near = colour * (0.5 + 0.5 * torch.sin(3.0 * view[..., :1] + phase))  # turns with the place: no light does
        views.append(view)
        truth.append(torch.where(is_unmodelled[:, None, None], 0.4 * far + 0.6 * near, far))
    return Toy(normal, (views[0], views[1]), (truth[0], truth[1]), is_unmodelled, kind)


def train(
    toy: Toy, steps: int, rates: dict[str, float], weight: float, seed: int, is_metal: bool = False
) -> list[float]:
    """Do one stage and return the mean progress of modelled points every fifth of it.

    rates: without "light" only baked colours are seen, without "progress" only physical ones.
    """
    groups = {"harmonics": [toy.harmonics], "material": [toy.material], "progress": [toy.progress]}
    groups["light"] = list(toy.light.parameters())
    optimiser = torch.optim.Adam(
        [{"params": groups[name], "lr": rate} for name, rate in rates.items()], betas=(0.9, 0.99), eps=1e-15
    )
    generator, found = torch.Generator().manual_seed(seed), []
    for step in range(steps):
        point = torch.randint(POINTS, (BATCH,), generator=generator)
        row = torch.randint(VIEWS, (BATCH,), generator=generator)
        view = toy.views[0][point, row]
        if "light" in rates:
            raw, physical, progress = toy.parts(point, view, toy.light.prefiltered(), is_metal)
            shown = mix(raw, physical, progress) if "progress" in rates else physical
            drawn = weight * (1.0 - progress).square().mean()
        else:
            shown, drawn = toy.raw(point, view), torch.zeros(())
        error = (shown - toy.truth[0][point, row]).abs().mean() + drawn
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        if (step + 1) % (steps // 5) == 0:
            found.append(float(toy.progress.detach().sigmoid()[~toy.is_unmodelled].mean()))
    return found


@torch.no_grad()
def quality(toy: Toy, mask: Tensor) -> dict[str, float]:
    """Return the PSNR of the mixture and its parts at test views of the points of a mask."""
    point = torch.arange(POINTS)[mask].repeat_interleave(VIEWS)
    row = torch.arange(VIEWS).repeat(int(mask.sum()))
    raw, physical, progress = toy.parts(point, toy.views[1][point, row], toy.light.prefiltered())
    pictures = {"raw": raw, "physical": physical, "mixed": mix(raw, physical, progress)}
    truth = toy.truth[1][point, row]
    return {k: -10 * math.log10(float((v.clamp(0, 1) - truth).square().mean())) for k, v in pictures.items()}


@torch.no_grad()
def relit(toy: Toy, name: str) -> float:
    """Return the PSNR of modelled points under another light, base colours scaled by the median of each channel."""
    light = EnvironmentLight(LIGHTS[name](cube_directions(RESOLUTION))).prefiltered()
    modelled = ~toy.is_unmodelled
    true, found = KINDS[toy.kind][modelled], toy.material.sigmoid()[modelled]
    scaled = (found[:, :3] * (true[:, :3] / found[:, :3]).median(dim=0).values).clamp(0, 1)
    shown = []
    for values in (true, torch.cat([scaled, found[:, 3:]], dim=1)):
        values = values[:, None].expand(-1, VIEWS, -1)
        material = Material(values[..., :3], values[..., 3:4], values[..., 4:])
        normal = toy.normal[modelled][:, None].expand(-1, VIEWS, -1)
        lit = shade_points(material, normal, toy.views[1][modelled], light, ShadeSettings())
        shown.append(to_display(lit.rgb, "srgb").clamp(0, 1))
    return -10 * math.log10(float((shown[0] - shown[1]).square().mean()))


@torch.no_grad()
def roughness_error(toy: Toy) -> float:
    """Return the mean error of roughness over modelled points."""
    apart = toy.material.sigmoid()[:, 3] - KINDS[toy.kind][:, 3]
    return float(apart[~toy.is_unmodelled].abs().mean())


BAKED, LEARNT = {"harmonics": 0.01}, {"harmonics": 0.0006, "material": 0.03, "progress": 0.03, "light": 0.03}
PHYSICAL = {"material": 0.03, "light": 0.03}


def refine(toy: Toy, rates: dict[str, float], weight: float) -> None:
    """Do the joint refinement: all but baked colours learn more slowly, then more slowly still."""
    for seed, factor in ((4, 0.3), (5, 0.1)):
        slower = {name: rate if name == "harmonics" else factor * rate for name, rate in rates.items()}
        train(toy, 450, slower, weight, seed)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_progress_rises_where_physics_explains_and_only_there() -> None:
    """M21, with the radiance field of stage 1 and physics from scratch (progress 1, the same steps) beside it.

    With known normals physics alone is nearly exact where it holds, and relights these points as well as nobody could tell from
    the truth (the gain that the paper reports needs learnt geometry), so beyond `EXACT` nothing is asked of the mixture.
    """
    toy, physics = make(), make()
    modelled, start = ~toy.is_unmodelled, toy.progress.detach().sigmoid()
    torch.testing.assert_close(start, torch.full_like(start, 0.01), atol=1e-3, rtol=0)
    train(toy, 200, BAKED, 0.0, 1)
    field = [quality(toy, mask)["raw"] for mask in (modelled, ~modelled)]
    train(toy, 150, LEARNT, 0.0, 2, is_metal=True)
    after = toy.progress.detach().sigmoid()[:, 0]
    assert float(after[modelled & DIFFUSE[toy.kind]].mean()) < 0.1
    course = train(toy, 450, LEARNT, 0.08, 3)
    assert all(late >= early - 0.01 for early, late in itertools.pairwise(course)), course
    final = toy.progress.detach().sigmoid()[:, 0]
    assert float(final[modelled].mean()) > 0.85
    assert float(final[~modelled].mean()) < float(final[modelled].mean()) - 0.15
    refine(toy, LEARNT, 0.08)
    train(physics, 600, PHYSICAL, 0.0, 3)
    refine(physics, PHYSICAL, 0.0)
    for mask, raw in zip((modelled, ~modelled), field, strict=True):
        found, alone = quality(toy, mask), quality(physics, mask)["physical"]
        best = max(found["raw"], found["physical"], raw, min(alone, EXACT))
        assert found["mixed"] >= best - 0.3, (found, raw, alone)
        assert found["raw"] < raw, (found, raw)  # baked colours give way
    assert found["mixed"] >= max(found["physical"], alone) + 5.0, (found, alone)  # of the unmodelled
    for values in (toy.harmonics, toy.material, toy.progress, toy.light.values):
        assert bool(torch.isfinite(values).all())
    for name in ("sky", "studio"):
        assert relit(toy, name) > min(relit(physics, name), EXACT) - 1.5


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_without_its_weight_the_progress_of_diffuse_points_stays_low() -> None:
    """M22: baked colours show diffuse points as well as physics does, so only the weight draws their progress up."""
    toy = make()
    train(toy, 200, BAKED, 0.0, 1)
    train(toy, 300, LEARNT, 0.0, 3)
    progress = toy.progress.detach().sigmoid()[:, 0]
    assert float(progress[~toy.is_unmodelled & DIFFUSE[toy.kind]].mean()) < 0.1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_baked_colours_that_learn_fast_leave_roughness_where_it_began() -> None:
    """M22: with the paper's start, 0.99, and baked colours 40 times as fast, roughness stays there: they explain everything.

    This is what `LearningRateWarning` is about (test_radiance_to_pbr.py holds the limits of the recipe).
    """
    errors = []
    for factor in (1.0, 40.0):
        toy = make()
        with torch.no_grad():
            toy.material[:, :4] = math.log(0.99 / 0.01)
        train(toy, 500, BAKED, 0.0, 1)
        rates = {**LEARNT, "harmonics": factor * LEARNT["harmonics"]}
        train(toy, 150, rates, 0.0, 2, is_metal=True)
        train(toy, 300, rates, 0.08, 3)
        errors.append(roughness_error(toy))
    slow, fast = errors
    assert fast > 0.4 and slow < fast - 0.1, errors
