"""Normals that a material turns: the formula, where a new material begins, gradients."""

from __future__ import annotations

import math

import pytest
import torch

from renderers.bump import bent
from renderers.pbr_mesh import PbrMeshRenderer, material_texture
from renderers.surface_conversion import sphere_mesh
from sds3d.cameras import turntable
from sds3d.config.pbr import PbrMeshConfig

CAMERAS = turntable(1, 16, 10.0, 2.5, 45.0)


def renderer(**keys) -> PbrMeshRenderer:
    small = {"texture": {"kind": "grid", "resolution": 4}, "light_resolution": 8, "occlusion": False}
    config, mesh = PbrMeshConfig.model_validate({**small, **keys}), sphere_mesh(0.7, 12)
    texture = material_texture(config, torch.Generator().manual_seed(0))
    return PbrMeshRenderer(torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces), texture, config)


def test_offsets_along_the_surface_are_slopes():
    up = torch.tensor([[0.0, 0.0, 1.0]])
    for slope, strength in ((1.0, 1.0), (-0.5, 0.6)):
        turned = bent(up, torch.tensor([[slope, 0.0, 0.9]]), strength)
        angle = math.atan(slope * strength)
        assert torch.allclose(turned, torch.tensor([[math.sin(angle), 0.0, math.cos(angle)]]), atol=1e-6)
    assert torch.equal(bent(torch.zeros(1, 3), torch.zeros(1, 3), 1.0), torch.zeros(1, 3))


def test_turning_everything_turns_the_result():
    draw = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=draw))[0]
    normal = torch.nn.functional.normalize(torch.randn(9, 3, generator=draw), dim=1)
    offset = 2.0 * torch.rand(9, 3, generator=draw) - 1.0
    assert torch.allclose(
        bent(normal @ rotation, offset @ rotation, 0.7), bent(normal, offset, 0.7) @ rotation, atol=1e-5
    )


def test_a_new_material_is_flat_and_without_bump_nothing_is_added():
    with torch.no_grad():
        plain, relief = renderer().gbuffer(CAMERAS), renderer(bump=1.0).gbuffer(CAMERAS)
    assert "bump" not in plain.extras and relief.extras["bump"].shape == (1, 16, 16, 3)
    assert torch.allclose(plain.normal, relief.normal, atol=1e-3) and torch.equal(plain.alpha, relief.alpha)
    assert set(renderer().material_at(torch.zeros(1, 3))) == {"base_colour", "roughness", "metallic"}


def test_light_tells_the_relief_and_outlines_stay():
    asset = renderer(bump=1.0)
    render = asset(CAMERAS, torch.zeros(1, 3))
    assert set(dict(asset.regularisers(render))) == set(PbrMeshConfig.REGULARISERS)
    (table,) = asset.texture.parameters()
    render.rgb.square().mean().backward()
    assert float(table.grad[..., -3:].abs().max()) > 0
    with torch.no_grad():
        before, mask = render.rgb.detach(), render.alpha.detach()
        table[..., -3:].normal_(generator=torch.Generator().manual_seed(1))
        after = asset(CAMERAS, torch.zeros(1, 3))
    assert float((after.rgb - before).abs().max()) > 0.02 and torch.equal(after.alpha, mask)


def test_its_range_is_checked():
    with pytest.raises(ValueError, match="less than or equal to 2"):
        PbrMeshConfig(bump=3.0)
