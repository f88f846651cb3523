"""Texture sampling against written-out sums, torch's own sampler and known footprints."""

from __future__ import annotations

import pytest
import torch

from renderers.meshes.interpolate import interpolate
from renderers.meshes.rasterise import rasterise
from renderers.meshes.texture import footprint, mip_levels, sample_texture
from sds3d.errors import ConfigError, ShapeError


def random(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_texel_centres_hold_the_texels_and_row_zero_is_on_top():
    texture = random(3, 4, 2)
    v, u = torch.meshgrid((torch.arange(3) + 0.5) / 3, (torch.arange(4) + 0.5) / 4, indexing="ij")
    uv = torch.stack([u, v], -1)[None].double()
    for border in ("wrap", "clamp"):
        torch.testing.assert_close(sample_texture(texture, uv, border=border)[0], texture)


def test_clamp_is_grid_sample_with_border_padding():
    texture, uv = random(5, 7, 3), random(2, 6, 6, 2, seed=1) * 2 - 0.5
    theirs = torch.nn.functional.grid_sample(
        texture.permute(2, 0, 1)[None].expand(2, -1, -1, -1), uv * 2 - 1, padding_mode="border", align_corners=False
    ).permute(0, 2, 3, 1)
    torch.testing.assert_close(sample_texture(texture, uv, border="clamp"), theirs)


def test_wrap_repeats():
    texture, uv = random(5, 7, 3), random(1, 6, 6, 2, seed=1)
    torch.testing.assert_close(sample_texture(texture, uv + torch.tensor([3, -2])), sample_texture(texture, uv))
    tiled = sample_texture(texture.repeat(3, 3, 1), (uv + 1) / 3, border="clamp")
    torch.testing.assert_close(sample_texture(texture, uv), tiled)


@pytest.mark.parametrize("border", ["wrap", "clamp"])
@pytest.mark.parametrize("mipped", [False, True])
def test_gradients(border, mipped):
    texture, uv = random(4, 5, 2).requires_grad_(), (random(1, 3, 3, 2, seed=2) * 0.8 + 0.07).requires_grad_()
    reach = random(1, 3, 3, 2, 2, seed=3) * 0.8 if mipped else None
    assert torch.autograd.gradcheck(lambda t, c: sample_texture(t, c, reach, border), (texture, uv))


def test_levels_of_the_pyramid():
    texture = random(4, 8, 3)
    levels = mip_levels(texture)
    assert [tuple(level.shape[:2]) for level in levels] == [(4, 8), (2, 4), (1, 2), (1, 1)]
    torch.testing.assert_close(levels[1][0, 0], texture[:2, :2].mean((0, 1)))
    torch.testing.assert_close(levels[-1][0, 0], texture.mean((0, 1)))
    assert len(mip_levels(texture, levels=1)) == 2
    assert [len(mip_levels(random(5, 3, 1))), mip_levels(random(5, 3, 1))[1].shape[0]] == [3, 2]


def test_the_footprint_chooses_the_level():
    texture, uv = random(16, 16, 1), random(1, 2, 2, 2, seed=4)
    levels = mip_levels(texture)

    def reach(texels):
        # The longer side decides; u changes downwards here.
        return torch.tensor([[0.0, texels / 16], [0.5 * texels / 16, 0.0]], dtype=torch.float64).expand(1, 2, 2, 2, 2)

    for texels, level in ((0.3, 0), (1.0, 0), (2.0, 1), (4.0, 2), (1000.0, 4)):
        torch.testing.assert_close(sample_texture(texture, uv, reach(texels)), sample_texture(levels[level], uv))
    between = 0.5 * (sample_texture(levels[1], uv) + sample_texture(levels[2], uv))
    torch.testing.assert_close(sample_texture(texture, uv, reach(8**0.5)), between)
    assert torch.equal(sample_texture(texture, uv, reach(4.0), levels=0), sample_texture(texture, uv, reach(0.1)))


def test_a_minified_checkerboard_turns_grey_instead_of_noise():
    # A quad of 8 x 8 pixels shows 64 x 64 texels: each pixel reaches over 8 texels.
    clip = torch.tensor([[[-1.0, -1, 0, 1], [1, -1, 0, 1], [1, 1, 0, 1], [-1, 1, 0, 1]]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    uv = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    drawn = rasterise(clip, faces, 8, 8)
    reach = footprint(uv, faces, drawn, clip, faces)
    torch.testing.assert_close(reach, (torch.eye(2) / 8).expand(1, 8, 8, 2, 2))
    board = ((torch.arange(64)[:, None] + torch.arange(64)) % 2).float()[..., None]
    where = interpolate(uv, faces, drawn) + 0.4 / 64
    assert (sample_texture(board, where, reach) - 0.5).abs().max() < 1e-6
    assert (sample_texture(board, where) - 0.5).abs().max() > 0.1


def test_errors_name_the_argument():
    texture, uv = torch.zeros(2, 2, 3), torch.zeros(1, 2, 2, 2)
    with pytest.raises(ShapeError, match=r"texture has shape \[2, 2\], but \[h >= 1, w >= 1, K\] is needed"):
        sample_texture(texture[..., 0], uv)
    with pytest.raises(ShapeError, match=r"uv has shape \[2, 2, 2\]"):
        sample_texture(texture, uv[0])
    with pytest.raises(ShapeError, match=r"footprint has shape \[1, 2, 2, 2\], but \[1, 2, 2, 2, 2\]"):
        sample_texture(texture, uv, uv)
    with pytest.raises(ConfigError, match=r"border is 'repeat', which is unknown\. Use 'clamp' or 'wrap'"):
        sample_texture(texture, uv, border="repeat")
