"""M25: shake-ups change exactly what they say, and the optimiser forgets exactly that."""

from __future__ import annotations

import torch

from renderers.gaussians.materials import CLOUD_GROUPS, MaterialGaussians, discs, rotations_to
from renderers.gaussians.projection import rotation_matrices
from renderers.gaussians.propagation import disturb_colours, propagate_normals, relocate_faint
from sds3d.config.materials import PropagationConfig
from sds3d.config.materials_stages import PARAMETERS

START = {"base_colour": 0.99, "roughness": 0.99, "metallic": 0.5, "progress": 0.01}


def cloud(count: int = 6, seed: int = 0) -> tuple[MaterialGaussians, torch.optim.Adam]:
    """Return a cloud whose optimiser remembers something of everything."""
    draws = torch.Generator().manual_seed(seed)
    normals = torch.nn.functional.normalize(torch.randn(count, 3, generator=draws), dim=1)
    made = MaterialGaussians(discs(normals, normals, torch.rand(count, 3, generator=draws), 0.5, 0.2), 1, START)
    optimiser = torch.optim.Adam(made.parameter_groups())
    for name in CLOUD_GROUPS:
        parameter = getattr(made, name)
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()  # rate 0: only the state moves
    return made, optimiser


def state_of(optimiser: torch.optim.Adam, parameter: torch.Tensor) -> torch.Tensor:
    return optimiser.state[parameter]["exp_avg"]


def test_groups_are_those_of_the_recipe() -> None:
    of_a_mesh = {name for name, meaning in PARAMETERS.items() if meaning.startswith("on a mesh")}
    assert set(CLOUD_GROUPS) == set(PARAMETERS) - {"light"} - of_a_mesh
    assert of_a_mesh == {"field", "raw_field"}


def test_discs_lie_across_their_normals() -> None:
    normals = torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    normals[0], normals[1] = torch.tensor([0.0, 0.0, -1.0]), torch.tensor([0.0, 0.0, 1.0])
    turned = rotation_matrices(rotations_to(normals))[:, 2].T  # third axis, xyz
    torch.testing.assert_close(turned, normals, atol=1e-6, rtol=0)


def test_normal_propagation() -> None:
    made, optimiser = cloud()
    made.fill_("progress", torch.tensor([[0.01], [0.019], [0.021], [0.5], [0.9], [0.01]]))
    with torch.no_grad():
        made.opacity_logits[3] = 4.0
    before = {name: getattr(made, name).detach().clone() for name in CLOUD_GROUPS}
    propagate_normals(made, optimiser, PropagationConfig())
    grown = (made.log_scales - before["log_scales"]).exp()
    expected = torch.ones(6, 3)
    expected[2:5, :2] = 1.5  # the third axis is the shortest
    torch.testing.assert_close(grown, expected)
    opacity = made.opacities.detach()
    torch.testing.assert_close(opacity[[0, 1, 2, 4, 5]], torch.full((5,), 0.9))
    assert float(opacity[3]) > 0.98
    for name in CLOUD_GROUPS:
        is_changed = name in ("log_scales", "opacity_logits")
        assert is_changed or torch.equal(getattr(made, name), before[name])
        assert bool((state_of(optimiser, getattr(made, name)) == 0).all()) == is_changed


def test_colours_of_dull_gaussians_are_disturbed() -> None:
    made, optimiser = cloud(2000)
    progress = torch.full((2000, 1), 0.01)
    progress[:1000] = 0.2
    made.fill_("progress", progress)
    before = made.sh0.detach().clone()
    disturb_colours(made, optimiser, PropagationConfig(), torch.Generator().manual_seed(2))
    noise = made.sh0.detach() - before
    assert torch.equal(noise[:1000], torch.zeros(1000, 3))
    assert float(noise.abs().max()) <= 0.4
    assert abs(float(noise[1000:].std()) - 0.4 / 3**0.5) < 0.01
    assert bool((state_of(optimiser, made.sh0) == 0).all()) and bool((state_of(optimiser, made.means) != 0).all())


def test_faint_ones_move_and_lose_their_directional_colours() -> None:
    made, optimiser = cloud(50)
    with torch.no_grad():
        made.sh_rest.fill_(0.3)
        made.opacity_logits[:10] = -6.0
    places = made.means.detach().clone()
    assert relocate_faint(made, optimiser, 0.02, torch.Generator().manual_seed(0)) == 10
    assert bool((made.sh_rest[:10] == 0).all()) and bool((made.sh_rest[10:] == 0.3).all())
    assert torch.equal(made.means[10:], places[10:])
    is_same = (made.means[:10, None].detach() == places[None, 10:]).all(dim=-1)
    assert bool(is_same.any(dim=1).all())
    assert relocate_faint(made, optimiser, 0.001, torch.Generator()) == 0
