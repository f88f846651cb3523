"""Optical depths along lines, and what is hidden, against brute force and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from sds3d.export.splats import Splats
from sds3d.meshing import carve
from sds3d.meshing.extinction import LINES, MAX_ALPHA, Grid, deposit, make_grid, visible


def ball(radius: float, size: int = 33, strength: float = 50.0) -> tuple[np.ndarray, float]:
    """A ball in a box of side 2, soft over one cell so that marching works well."""
    axis = np.linspace(-1.0, 1.0, size)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    cell = 2.0 / (size - 1)
    inside = np.clip((radius - np.sqrt(x * x + y * y + z * z)) / cell + 0.5, 0.0, 1.0)
    return (strength * inside).astype(np.float32), cell


def one_gaussian(alpha: float, scales=(0.1, 0.1, 0.1), quat=(1.0, 0.0, 0.0, 0.0)) -> Splats:
    sh0 = (np.array([[0.9, 0.5, 0.1]]) - 0.5) / 0.28209479177387814
    return Splats(np.zeros((1, 3)), np.array([quat]), np.log([scales]), np.log([alpha / (1 - alpha)]), sh0)


def test_line_depths_equal_brute_force_along_every_line() -> None:
    rng = np.random.default_rng(0)
    extinction = rng.random((4, 5, 6)).astype(np.float32)
    for direction, (before, after) in zip(LINES, carve.line_depths(extinction, 0.5), strict=True):
        step = 0.5 * np.linalg.norm(direction)
        for node in np.ndindex(extinction.shape):
            for sign, found in ((-1, before), (1, after)):
                expected, at = 0.5 * extinction[node], np.array(node) + sign * np.array(direction)
                while ((at >= 0) & (at < extinction.shape)).all():
                    expected += extinction[tuple(at)]
                    at += sign * np.array(direction)
                assert found[node] == pytest.approx(step * expected, rel=1e-5)


def test_there_are_thirteen_lines_and_no_line_twice() -> None:
    both_ways = {d for line in LINES for d in (line, tuple(-x for x in line))}
    assert len(LINES) == 13 and len(both_ways) == 26 and (0, 0, 0) not in both_ways


def test_an_opaque_ball_is_hidden_to_within_half_a_cell() -> None:
    extinction, cell = ball(0.6)
    inside = carve.hidden(extinction, cell) >= 1.0
    assert inside.sum() * cell**3 == pytest.approx(4.0 / 3.0 * np.pi * 0.6**3, rel=0.17)  # half a cell


def test_a_hollow_shell_is_filled_and_haze_is_cut() -> None:
    solid, cell = ball(0.6)
    core, _ = ball(0.45)
    haze = np.full_like(solid, 0.1)  # optical depth 0.2 across the box: nobody sees it
    inside = carve.hidden(solid - core + haze, cell) >= 1.0
    assert inside[16, 16, 16]
    assert inside.sum() * cell**3 == pytest.approx(4.0 / 3.0 * np.pi * 0.6**3, rel=0.17)  # half a cell


def test_a_cup_keeps_its_opening() -> None:
    block = np.zeros((20, 20, 20), np.float32)
    block[4:16, 4:16, 4:16] = 40.0
    block[7:13, 7:13, 8:] = 0.0
    field, pieces = carve.clean(carve.hidden(block, 0.1))
    assert pieces == 1
    assert (field[8:12, 8:12, 10:16] < 1.0).all() and field[5, 10, 14] >= 1.0 and field[10, 10, 5] >= 1.0


def test_clean_removes_specks_and_fills_cavities_but_keeps_real_pieces() -> None:
    field = np.zeros((30, 30, 30), np.float32)
    field[2:14, 2:14, 2:14] = 2.0
    field[6:9, 6:9, 6:9] = 0.0  # a cavity
    field[18:24, 18:24, 18:24] = 2.0  # a second piece, an eighth of the first
    field[27, 27, 27] = 2.0  # a speck
    cleaned, pieces = carve.clean(field)
    assert pieces == 2
    assert cleaned[7, 7, 7] >= 1.0 and cleaned[20, 20, 20] >= 1.0 and cleaned[27, 27, 27] < 1.0
    assert carve.clean(np.zeros((3, 3, 3), np.float32))[1] == 0


def test_faintest_line_bounds_the_opacity_that_leaves_something_inside() -> None:
    extinction, cell = ball(0.5, size=21, strength=0.3)
    limit = carve.faintest_line(extinction, cell)
    assert limit == pytest.approx(0.3 * 1.0, rel=0.15)  # strength times diameter
    assert (carve.hidden(extinction, cell, opaque=0.99 * limit) >= 1.0).any()
    assert not (carve.hidden(extinction, cell, opaque=1.01 * limit) >= 1.0).any()


@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.7])
def test_a_round_gaussian_absorbs_what_the_renderer_gives_it(alpha: float) -> None:
    splats = one_gaussian(alpha, scales=(0.2, 0.2, 0.2))
    grid = make_grid(np.full(3, -0.8), np.full(3, 0.8), 60)
    extinction, _ = deposit(splats, grid, with_colors=False)
    middle = np.array(grid.shape) // 2
    rays = grid.cell * extinction.sum(axis=2)
    assert -np.expm1(-rays[middle[0], middle[1]]) == pytest.approx(alpha, abs=0.05)


def test_deposit_follows_rotation_and_mixes_colours_by_extinction() -> None:
    half = np.sqrt(0.5)
    turned = one_gaussian(0.5, scales=(0.4, 0.1, 0.1), quat=(half, 0.0, 0.0, half))  # x axis to y
    grid = make_grid(np.full(3, -1.0), np.full(3, 1.0), 40)
    extinction, colors = deposit(turned, grid, with_colors=True)
    along = [
        extinction[tuple(np.rint(grid.to_index(np.array(p))).astype(int))]
        for p in ((0.4, 0, 0), (0, 0.4, 0), (0, 0, 0.4))
    ]
    assert along[1] > 5.0 * max(along[0], along[2])
    seen = extinction > 0.1
    np.testing.assert_allclose(
        colors[:, seen] / extinction[seen], np.repeat([[0.9], [0.5], [0.1]], seen.sum(), 1), atol=1e-4
    )


def test_visible_drops_faint_infinite_and_endless_gaussians() -> None:
    good = one_gaussian(0.5)
    means = np.repeat(good.means, 4, axis=0)
    means[1, 0] = np.nan
    logits = np.array([0.0, 0.0, -9.0, 0.0])
    log_scales = np.repeat(good.log_scales, 4, axis=0)
    log_scales[3] = 80.0
    splats = Splats(means, np.repeat(good.quats, 4, 0), log_scales, logits, np.repeat(good.sh0, 4, 0))
    assert len(visible(splats)) == 1


def test_make_grid_covers_the_box_with_cubes_and_a_margin() -> None:
    low, high = np.array([-1.0, -0.5, 0.0]), np.array([1.0, 0.5, 0.25])
    grid = make_grid(low, high, 40)
    assert grid.cell == pytest.approx(0.05)
    assert (grid.bounds[0] <= low + 1e-9).all() and (grid.bounds[1] >= high - 1e-9).all()
    np.testing.assert_allclose(grid.to_world(grid.to_index(low)), low, atol=1e-12)
    assert isinstance(grid, Grid) and 0.0 < MAX_ALPHA < 1.0


def test_wide_gaussians_on_the_coarse_grid_equal_those_on_the_fine_one(monkeypatch: pytest.MonkeyPatch) -> None:
    splats = one_gaussian(0.6, scales=(0.5, 0.3, 0.4), quat=(0.8, 0.2, -0.3, 0.4))
    grid = make_grid(np.array([-1.0, -0.8, -0.7]), np.array([1.0, 0.9, 0.9]), 41)
    coarse = deposit(splats, grid, with_colors=True)
    monkeypatch.setattr("sds3d.meshing.extinction._WIDE", 1e9)
    fine = deposit(splats, grid, with_colors=True)
    for a, b in zip(coarse, fine, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=0.05 * b.max())
        np.testing.assert_allclose(a.sum(), b.sum(), rtol=0.01)
