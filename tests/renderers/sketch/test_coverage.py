"""A3 to A9: the ink of a line, both ways to draw, gradients and invariances."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from renderers.sketch.coverage import culled, dense, draw
from renderers.sketch.kernels import KERNELS, gauss
from renderers.sketch.projection import Polylines
from sds3d.errors import ConfigError


def line(start, end, radius, depth=(1.0, 1.0)):
    """Return one straight stroke in one view, as float64 polylines."""
    xy = torch.tensor([[[start, end]]], dtype=torch.float64)
    return Polylines(
        xy,
        torch.tensor([[depth]], dtype=torch.float64),
        torch.full((1, 1, 2), radius).double(),
        torch.ones(1, 1, 1) > 0,
    )


ONE, BLACK = torch.ones(1, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)


@pytest.mark.parametrize("kernel", list(KERNELS))
@pytest.mark.parametrize("radius", [0.05, 0.3, 0.75, 1.5, 3.0])
def test_ink_is_conserved_at_every_radius(kernel, radius):
    distance = torch.linspace(-40.0, 40.0, 800_001, dtype=torch.float64)
    ink = KERNELS[kernel](distance, torch.tensor(radius, dtype=torch.float64), 0.5)
    assert abs(float(torch.trapezoid(ink, distance)) - 2 * radius) < 1e-6
    assert torch.allclose(ink, ink.flip(0), atol=1e-12)
    assert float(ink.max()) <= 1.0
    assert (ink[400_000:].diff() <= 1e-12).all()


def test_peaks_are_those_of_the_table():
    radius, zero = torch.tensor([0.3, 0.75, 1.5]), torch.zeros(3)
    assert torch.allclose(gauss(zero, radius, 0.5), torch.tensor([0.45, 0.87, 0.997]), atol=0.005)
    assert torch.allclose(KERNELS["smoothstep"](zero, radius, 0.5), torch.tensor([0.44, 0.91, 1.0]), atol=0.006)


@pytest.mark.parametrize("paint", [dense, culled])
def test_a_horizontal_line_has_the_closed_form_in_each_row(paint):
    drawn = paint(line((-40.0, 8.5), (72.0, 8.5), 1.5), ONE, BLACK, 17, 32)
    rows = (torch.arange(17, dtype=torch.float64) + 0.5 - 8.5).abs()
    expected = gauss(rows, torch.tensor(1.5, dtype=torch.float64), 0.5).clamp(max=1 - 1e-6)
    assert (drawn.alpha[0, :, :, 0] - expected[:, None]).abs().max() < 1e-7


@pytest.mark.parametrize("radius", [0.4, 1.5])
def test_the_ink_of_a_line_is_its_area_and_two_caps(radius):
    length = 40.0
    drawn = culled(line((12.0, 15.3), (12.0 + length, 15.3), radius), ONE, BLACK, 32, 64)
    distance = torch.linspace(0.0, 20.0, 200_001, dtype=torch.float64)  # both caps together are a disc
    disc = 2 * torch.pi * torch.trapezoid(distance * gauss(distance, torch.tensor(radius).double(), 0.5), distance)
    assert float(drawn.alpha.sum()) == pytest.approx(2 * radius * length + float(disc), rel=1e-3)


@pytest.mark.parametrize("kernel", ["gauss", "sigmoid"])
@pytest.mark.parametrize("backend", ["dense", "culled"])
def test_gradients_are_those_of_finite_differences(make_points, make_cameras, make_picture, kernel, backend):
    camera, points = make_cameras(1, 24), make_points(3, seed=4, spread=1.0)
    generator = torch.Generator().manual_seed(5)
    cotangent = torch.randn(1, 24, 24, 4, generator=generator, dtype=torch.float64)
    values = {
        "points": points,
        "half_width": torch.tensor([0.10, 0.13, 0.16], dtype=torch.float64),
        "opacity": torch.tensor([0.5, 0.7, 0.9], dtype=torch.float64),
        "colour": torch.rand(3, 3, generator=generator, dtype=torch.float64),
        "log_weights": 0.3 * torch.randn(3, 4, generator=generator, dtype=torch.float64),
    }

    def loss(**change):
        drawn = make_picture(**{**values, **change}, cameras=camera, kernel=kernel, backend=backend, softness=0.7)
        return (torch.cat([drawn.rgb, drawn.alpha], dim=-1) * cotangent).sum()

    for name, value in values.items():
        leaf = value.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(**{name: leaf}), leaf)
        direction = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        above, below = loss(**{name: value + 1e-6 * direction}), loss(**{name: value - 1e-6 * direction})
        numeric = float(above - below) / 2e-6
        exact = float((gradient * direction).sum())
        assert abs(exact - numeric) < 1e-6 * max(abs(exact), float(gradient.norm())), name


def scene(make_points):
    """Ordinary strokes, one outside the picture, one of equal points, one behind the camera, one that passes it."""
    points = make_points(8, seed=2, spread=1.0)
    points[1] += torch.tensor([0.0, 30.0, 0.0])
    points[2] = points[2, :1]
    points[3] += torch.tensor([6.0, 0.0, 2.0])
    points[4, 3] += torch.tensor([4.0, 0.0, 1.0])
    return points


@pytest.mark.parametrize("softness", [0.5, 2.0])
def test_both_ways_draw_the_same(make_points, make_cameras, make_picture, softness):
    cameras = make_cameras(2, 40)
    results = []
    for backend in ("dense", "culled"):
        points = scene(make_points).requires_grad_()
        colour = torch.linspace(0, 1, 24, dtype=torch.float64).view(8, 3)
        drawn = make_picture(points, cameras, half_width=0.04, colour=colour, backend=backend, softness=softness)
        (drawn.rgb.square().sum() + drawn.alpha.sum() + (drawn.depth * drawn.alpha).sum()).backward()
        assert points.grad.isfinite().all()
        results.append((drawn, points.grad))
    (first, gradient), (second, other) = results
    assert (first.rgb - second.rgb).abs().max() < 1e-7
    assert (first.alpha - second.alpha).abs().max() < 1e-7
    assert ((first.depth - second.depth) * (first.alpha > 1e-3)).abs().max() < 1e-4
    assert (gradient.sum(dim=1) - other.sum(dim=1)).norm() < 1e-6 * gradient.norm()
    others = torch.arange(8) != 2  # pieces of a stroke of equal points tie: which of its points is pulled is arbitrary
    assert (gradient - other)[others].norm() < 1e-6 * gradient.norm()
    assert float(first.alpha.detach().max()) > 0.5


def test_more_samples_converge(make_points, make_cameras, make_picture):
    points, camera = make_points(6, seed=3, spread=0.4), make_cameras(1, 96)
    exact = make_picture(points, camera, half_width=0.03, samples=256).alpha
    errors = [
        float((make_picture(points, camera, half_width=0.03, samples=n).alpha - exact).abs().max()) for n in (16, 32)
    ]
    assert errors[0] < 0.03 and errors[1] < 0.007
    assert errors[0] > 3 * errors[1]  # the sagitta of a piece falls with the square of its length


def test_equal_ink_needs_no_order(make_points, make_cameras, make_picture):
    points, camera = make_points(6, spread=1.0), make_cameras(1, 48)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    first, second = make_picture(points, camera), make_picture(points[order], camera)
    assert (first.alpha - second.alpha).abs().max() < 1e-12
    assert (first.rgb - second.rgb).abs().max() < 1e-12


@pytest.mark.parametrize("paint", [dense, culled])
@pytest.mark.parametrize("is_red_nearer", [True, False])
def test_the_nearer_colour_wins_where_strokes_cross(paint, is_red_nearer):
    red_depth, blue_depth = (1.0, 2.0) if is_red_nearer else (2.0, 1.0)
    a, b = line((2.5, 8.5), (14.5, 8.5), 1.5, (red_depth,) * 2), line((8.5, 2.5), (8.5, 14.5), 1.5, (blue_depth,) * 2)
    both = Polylines(
        *(torch.cat([getattr(x, f) for x in (a, b)], dim=1) for f in ("xy", "depth", "radius", "is_drawn"))
    )
    colours = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]], dtype=torch.float64)
    drawn = paint(both, torch.full((2,), 0.9).double(), colours, 17, 17)
    red, _, blue = drawn.rgb[0, 8, 8].tolist()
    assert (red > 5 * blue) if is_red_nearer else (blue > 5 * red)
    assert float(drawn.depth[0, 8, 8, 0]) == pytest.approx(1.0 + float(0.1 * 0.9) / 0.99, abs=0.01)


def test_moving_everything_together_changes_nothing(make_points, make_cameras, make_picture):
    points, camera = make_points(5), make_cameras(1, 48)
    reference = make_picture(points, camera, half_width=0.02)
    angle = torch.tensor(0.7).double()
    turn = torch.eye(4, dtype=torch.float64)
    turn[0, 0] = turn[1, 1] = angle.cos()
    turn[0, 1], turn[1, 0] = -angle.sin(), angle.sin()
    turn[:3, 3] = torch.tensor([0.3, -2.0, 1.0])
    moved = make_picture(
        points @ turn[:3, :3].T + turn[:3, 3],
        replace(camera, cam_to_world=turn @ camera.cam_to_world),
        half_width=0.02,
    )
    assert (moved.alpha - reference.alpha).abs().max() < 1e-6
    larger = camera.cam_to_world.clone()
    larger[:, :3, 3] *= 3.0
    grown = make_picture(3.0 * points, replace(camera, cam_to_world=larger), half_width=0.06)
    assert (grown.alpha - reference.alpha).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"kernel": "gaus"}, "kernel is 'gaus', which is unknown. Use 'gauss'"),
        ({"backend": "cull"}, "backend is 'cull'.*'culled'"),
        ({"softness": 0.0}, "softness is 0.0, but must be above 0"),
    ],
)
def test_wrong_options_are_named(option, message):
    with pytest.raises(ConfigError, match=message):
        draw(line((1.0, 1.0), (5.0, 5.0), 1.0), ONE, BLACK, 8, 8, **option)
