"""Similarities and the gauge (section 2.7): closed forms, uniqueness, exact rest."""

import math

import pytest
import torch

from renderers.motion import similarity as sim
from renderers.motion.base import Motion
from renderers.motion.bases import BASES, Basis
from renderers.motion.fields import Direct
from sds3d.errors import ConfigError


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_similarity(frames, has_scale=True, seed=1):
    vector = 0.9 * random(frames, 3, seed=seed)
    scale = torch.exp(0.3 * random(frames, seed=seed + 1)) if has_scale else torch.ones(frames, dtype=torch.float64)
    turn, quaternion = sim.rotation_from_vector(vector), sim.quaternion_from_vector(vector)
    return sim.Similarity(scale, turn, quaternion, random(frames, 3, seed=seed + 2))


def test_rotation_vectors_are_rotations_of_any_angle():
    from scipy.spatial.transform import Rotation

    vector = 3.0 * random(7, 3)
    expected = torch.as_tensor(Rotation.from_rotvec(vector.numpy()).as_matrix())
    assert torch.allclose(sim.rotation_from_vector(vector), expected, atol=1e-11)
    assert torch.allclose(sim.rotation_from_quaternion(sim.quaternion_from_vector(vector)), expected, atol=1e-11)
    two_turns = torch.tensor([0.0, 0.0, 4.5 * math.pi], dtype=torch.float64)
    x = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    assert torch.allclose(sim.rotation_from_vector(two_turns) @ x, x.roll(1), atol=1e-10)


def test_no_rotation_is_exactly_the_identity_and_has_a_gradient():
    for dtype in (torch.float32, torch.float64):
        vector = torch.zeros(3, dtype=dtype, requires_grad=True)
        turn = sim.rotation_from_vector(vector)
        assert torch.equal(turn, torch.eye(3, dtype=dtype))
        (turn[1, 0] + sim.quaternion_from_vector(vector)[3]).backward()
        assert vector.grad.tolist() == pytest.approx([0.0, 0.0, 1.5], abs=1e-6)
    assert torch.autograd.gradcheck(sim.rotation_from_vector, random(2, 3).requires_grad_())
    assert torch.autograd.gradcheck(sim.quaternion_from_vector, random(2, 3).requires_grad_())


def test_quaternion_products_compose_rotations():
    first, second = random(5, 4, seed=3), random(5, 4, seed=4)
    both = sim.rotation_from_quaternion(sim.quaternion_product(first, second))
    assert torch.allclose(both, sim.rotation_from_quaternion(first) @ sim.rotation_from_quaternion(second), atol=1e-12)
    assert torch.allclose(sim.rotation_from_quaternion(-first), sim.rotation_from_quaternion(first))


@pytest.mark.parametrize("has_scale", [False, True])
def test_the_gauge_removes_every_infinitesimal_similarity_and_nothing_else(has_scale):
    rest, offsets = random(9, 3), random(4, 9, 3, seed=2)
    kept = sim.gauge_project(offsets, rest, has_scale)
    centred = rest - rest.mean(dim=0)
    assert kept.mean(dim=1).abs().max() < 1e-13
    assert torch.linalg.cross(centred.expand_as(kept), kept, dim=-1).sum(dim=1).abs().max() < 1e-11
    growth = (centred * kept).sum(dim=(1, 2)).abs().max()
    assert growth < 1e-11 if has_scale else growth > 0.1
    assert torch.allclose(sim.gauge_project(kept, rest, has_scale), kept, atol=1e-11)  # a projection
    # Brute force: least squares on the tangent space.
    tangent = [torch.eye(3, dtype=rest.dtype)[k].expand(9, 3) for k in range(3)]
    tangent += [torch.linalg.cross(t.contiguous(), centred, dim=-1) for t in tangent[:3]] + [centred] * has_scale
    basis = torch.stack([t.flatten() for t in tangent], dim=1)
    solved = torch.linalg.lstsq(basis, offsets.flatten(1).T).solution
    assert torch.allclose(offsets.flatten(1).T - basis @ solved, kept.flatten(1).T, atol=1e-10)
    probe = random(1, 5, 3, seed=6).requires_grad_()
    assert torch.autograd.gradcheck(lambda d: sim.gauge_project(d, rest[:5], has_scale), probe)


def test_the_gauge_survives_points_on_a_line_and_a_single_point():
    line = torch.linspace(-1, 1, 6)[:, None] * torch.tensor([[1.0, 2.0, 0.5]])
    for rest in (line, torch.zeros(1, 3), torch.zeros(4, 3)):
        kept = sim.gauge_project(torch.ones(2, len(rest), 3), rest, True)
        assert torch.isfinite(kept).all() and kept.abs().max() < 1e-5


@pytest.mark.parametrize("has_scale", [False, True])
def test_the_split_is_unique_and_exact_over_24_frames(has_scale):
    """The page: R, s and t come back to 3e-15 with 0.08-sized deformation; without the gauge 3 degrees off."""
    rest, whole = random(60, 3), random_similarity(24, has_scale)
    raw = 0.08 * random(24, 60, 3, seed=5) + 0.05 * torch.linalg.cross(
        random(24, 1, 3, seed=9).expand(-1, 60, -1), rest.expand(24, -1, -1), dim=-1
    )
    offsets, centre = sim.gauge_project(raw, rest, has_scale), rest.mean(dim=0)
    found = sim.factorise(sim.move(rest, offsets, whole, centre), rest, has_scale)
    assert torch.allclose(found.similarity.rotation, whole.rotation, atol=1e-13)
    assert torch.allclose(found.similarity.scale, whole.scale, atol=1e-13)
    assert torch.allclose(found.similarity.translation, whole.translation, atol=1e-13)
    assert torch.allclose(found.offsets, offsets, atol=1e-13)
    wrong = sim.factorise(sim.move(rest, raw, whole, centre), rest, has_scale)
    angle = (wrong.similarity.rotation.transpose(1, 2) @ whole.rotation).diagonal(dim1=1, dim2=2).sum(dim=1)
    assert torch.rad2deg(torch.acos(((angle - 1) / 2).clamp(max=1))).mean() > 1.0


def test_factorise_takes_any_trajectory_apart_and_move_puts_it_together():
    rest, path = random(12, 3), random(5, 12, 3, seed=8)
    for has_scale in (False, True):
        parts = sim.factorise(path, rest, has_scale)
        assert torch.allclose(sim.move(rest, parts.offsets, parts.similarity, parts.centre), path, atol=1e-12)
        assert torch.allclose(torch.linalg.det(parts.similarity.rotation), torch.ones(5, dtype=torch.float64))
        assert torch.allclose(sim.rotation_from_quaternion(parts.similarity.quaternion), parts.similarity.rotation)
        assert torch.allclose(sim.gauge_project(parts.offsets, rest, has_scale), parts.offsets, atol=1e-11)


@pytest.mark.slow
def test_training_through_two_views_finds_the_motion_with_the_gauge_and_not_without():
    """A17: 24 frames, 48 points, two orthographic views see the paths; only the gauge tells turning from bending."""
    frames, count = 24, 48

    def fit(gauge):
        rest = random(count, 3)
        basis = Basis("polynomial", frames, 2)
        times = torch.linspace(0, 1, frames, dtype=torch.float64)
        vector = times[:, None] * torch.tensor([[0.1, 0.2, 0.9]], dtype=torch.float64)
        whole = sim.Similarity(
            torch.ones(frames, dtype=torch.float64),
            sim.rotation_from_vector(vector),
            sim.quaternion_from_vector(vector),
            times[:, None] * torch.tensor([[0.3, 0.0, 0.1]], dtype=torch.float64),
        )
        bend = times[:, None, None] * sim.gauge_project(0.05 * random(1, count, 3, seed=3), rest, False)
        target = sim.move(rest, bend, whole, rest.mean(dim=0))
        motion = Motion(sim.SimilarityTrack(basis), Direct(count, basis), gauge).double()
        motion.field.coefficients.data = 0.1 * random(count, 2, 3, seed=4)  # part of it is a rigid motion
        optimiser = torch.optim.LBFGS(motion.parameters(), max_iter=100, line_search_fn="strong_wolfe")

        def loss():
            optimiser.zero_grad()
            difference = motion(rest, times).points - target
            value = difference[..., (0, 2)].square().mean() + difference[..., (1, 2)].square().mean()
            value.backward()
            return value

        optimiser.step(loss)
        found = motion(rest, times)
        trace = (
            (found.similarity.rotation.detach().transpose(1, 2) @ whole.rotation).diagonal(dim1=1, dim2=2).sum(dim=1)
        )
        angle = float(torch.rad2deg(torch.acos(((trace - 1) / 2).clamp(max=1))).max())
        away = float((found.similarity.translation - whole.translation).detach().abs().max())
        bent = float((found.offsets - bend).detach().norm(dim=-1).mean())
        return angle, away, bent, float(loss().detach())

    angle, away, bent, loss = fit("project")
    other_angle, _, _, other_loss = fit("none")
    assert loss < 1e-5 and other_loss < 1e-5
    assert angle < 1.0 and away < 1e-3 and bent < 2e-3, (angle, away, bent)
    assert other_angle > 1.5  # beyond the bound that the gauge keeps


@pytest.mark.parametrize("kind", BASES)
def test_every_basis_is_0_at_the_reference_time(kind):
    for reference in (0.0, 0.37):
        basis = Basis(kind, 9, None, reference)
        values = basis.at(torch.tensor([reference, 0.8], dtype=torch.float64))
        assert values.shape == (2, basis.size)
        assert torch.equal(values[0], torch.zeros(basis.size, dtype=torch.float64)) and values[1].abs().max() > 0.05


def test_bsplines_are_scipys_and_add_up_to_1():
    from scipy.interpolate import BSpline

    times = torch.linspace(0, 1, 23, dtype=torch.float64)
    values = BASES["bspline"](times, 7, 21)
    assert torch.allclose(values.sum(dim=1), torch.ones(23, dtype=torch.float64))
    knots = (torch.arange(11, dtype=torch.float64) - 3) / 4
    for k in range(7):
        expected = BSpline.basis_element(knots[k : k + 5].numpy(), extrapolate=False)(times.numpy())
        expected = torch.nan_to_num(torch.as_tensor(expected))
        assert torch.allclose(values[1:-1, k], expected[1:-1], atol=1e-12)
    assert Basis("bspline", 24).size == 8 and Basis("bspline", 5).size == 4
    line = (torch.arange(7, dtype=torch.float64) - 1) / 4  # the control values of the line itself
    assert torch.allclose(values @ line, times, atol=1e-12)


def test_fourier_loops_dct_is_orthogonal_and_polynomials_are_powers():
    times = torch.linspace(0, 1, 8, dtype=torch.float64)
    loop = BASES["fourier"](times[[0, -1]], 6, 8)
    assert torch.allclose(loop[0], loop[1], atol=1e-12)
    cosines = BASES["dct"](times, 5, 8)
    assert torch.allclose(cosines.T @ cosines, 4.0 * torch.eye(5, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(BASES["polynomial"](times, 3, 8)[:, 2], times**3)


def test_fenwick_frames_are_prefix_sums():
    frames = 13
    times = torch.arange(frames, dtype=torch.float64) / (frames - 1)
    values = Basis("fenwick", frames).at(times)
    assert values.sum(dim=1).tolist() == pytest.approx([bin(frame).count("1") for frame in range(frames)], abs=1e-9)
    # A Fenwick tree built from increments gives back their running sums.
    steps = random(frames - 1, seed=2)
    nodes = torch.stack([steps[j - (j & -j) : j].sum() for j in range(1, frames)])
    expected = torch.cat([torch.zeros(1, dtype=torch.float64), steps.cumsum(dim=0)])
    assert torch.allclose(values @ nodes, expected, atol=1e-9)
    nodes_of = {5: [5, 4], 6: [6, 4], 7: [7, 6, 4], 13: [13, 12, 8]}
    table = BASES["fenwick"](torch.arange(14, dtype=torch.float64) / 13, 13, 14)
    for frame, wanted in nodes_of.items():
        assert (table[frame].nonzero()[:, 0] + 1).tolist() == sorted(wanted)
    for node in range(1, 14):  # a node changes exactly the frames from itself to before the next that covers it
        touched = [frame for frame in range(14) if table[frame, node - 1]]
        assert touched == list(range(node, min(node + (node & -node), 14)))
    between = Basis("fenwick", frames).at((times[3:4] + times[4:5]) / 2)
    assert torch.allclose(between[0], (values[3] + values[4]) / 2, atol=1e-9)


def test_wrong_bases_are_refused():
    with pytest.raises(ConfigError, match=r"'splines' is unknown.*'bspline'"):
        Basis("splines", 8)
    with pytest.raises(ConfigError, match="needs at least 4"):
        Basis("bspline", 8, 3)
    with pytest.raises(ConfigError, match="even number"):
        Basis("fourier", 8, 3)
    with pytest.raises(ConfigError, match="1 frame"):
        Basis("dct", 1)


def test_scaling_about_a_camera_keeps_its_picture_and_multiplies_depth():
    """B3, first half."""
    from sds3d.cameras import orbit

    camera = orbit(torch.tensor([40.0]), torch.tensor([20.0]), torch.tensor([2.5]), 45.0, 64, 64)
    world_to_cam, intrinsics = camera.world_to_cam[0].double(), camera.intrinsics[0].double()
    points, centre = 0.4 * random(30, 3), torch.linalg.inv(world_to_cam)[:3, 3]

    def project(points):
        there = points @ world_to_cam[:3, :3].T + world_to_cam[:3, 3]
        image = there @ intrinsics.T
        return image[:, :2] / image[:, 2:], there[:, 2]

    (before, depth), (after, new_depth) = project(points), project(sim.scale_about(points, 1.7, centre))
    assert (before - after).abs().max() < 1e-6
    assert torch.allclose(new_depth, 1.7 * depth, rtol=1e-9)
