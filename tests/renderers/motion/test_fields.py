"""Deformation fields (section 3.4): B1, rest at the reference time, closed forms, gradients."""

import pytest
import torch

from renderers.motion import fields
from renderers.motion.base import Motion, build_motion
from renderers.motion.bases import Basis
from renderers.motion.similarity import (
    SimilarityTrack,
    gauge_project,
    quaternion_from_vector,
    rotation_from_quaternion,
    rotation_from_vector,
)
from sds3d.config.motion import MotionConfig
from sds3d.errors import ConfigError, ShapeError

KINDS = ("still", "direct", "nodes", "hexplane", "mlp")
SMALL = {"hexplane": {"channels": 3, "resolution": 4, "time_resolution": 3, "scales": [1, 2]}, "mlp": {"hidden": 8}}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def points(count=12, seed=0):
    return 0.5 * torch.randn(count, 3, generator=generator(seed), dtype=torch.float64)


def small_motion(kind, reference=0.0, scale=True, gauge="project", basis="bspline"):
    settings = MotionConfig(
        frames=6,
        reference=reference,
        gauge=gauge,
        similarity={"scale": scale, "basis": basis},
        field={"kind": kind, **SMALL.get(kind, {})},
    )
    return build_motion(settings, points(), generator()).double()


def shake(motion, size=0.3, seed=5):
    """Give every parameter a random value, as training would."""
    with torch.no_grad():
        for parameter in motion.parameters():
            noise = torch.randn(parameter.shape, generator=generator(seed), dtype=parameter.dtype)
            parameter.add_(size * noise)
    return motion


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reference", [0.0, 0.4])
def test_rest_is_exact_at_the_reference_time_before_and_after_training(kind, reference):
    times = torch.tensor([0.1, reference, 1.0], dtype=torch.float64)
    motion, rest = small_motion(kind, reference), points()
    assert torch.equal(motion(rest, times).points, rest.expand(3, -1, -1))
    moved = shake(motion)(rest, times)
    assert torch.equal(moved.points[1], rest)
    assert (moved.points[0] - rest).abs().max() > 1e-3 and (moved.points[2] - rest).abs().max() > 1e-3
    assert torch.allclose(moved.rotations[1], torch.eye(3, dtype=rest.dtype).expand(12, 3, 3), atol=1e-11)
    if moved.log_scales is not None:
        assert torch.equal(moved.log_scales[1], torch.zeros_like(rest))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter_and_the_rest_points(kind):
    motion, rest = shake(small_motion(kind)), points().requires_grad_()
    times = torch.tensor([0.3, 0.9], dtype=torch.float64)
    names = [name for name, _ in motion.named_parameters()]
    if kind in ("still", "direct"):
        values = [parameter.detach().clone().requires_grad_() for parameter in motion.parameters()]

        def run(rest, *values):
            return torch.func.functional_call(motion, dict(zip(names, values, strict=True)), (rest, times)).points

        assert torch.autograd.gradcheck(run, (points(), *values), fast_mode=True)
    moved = motion(rest, times)
    total = (moved.points**3).sum() + moved.rotations.pow(3).sum()
    total = total if moved.log_scales is None else total + moved.log_scales.pow(3).sum()
    total.backward()
    for name, parameter in motion.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert torch.isfinite(rest.grad).all() and rest.grad.abs().sum() > 0


def test_the_motion_projects_what_its_field_says():
    motion, rest = shake(small_motion("mlp")), points()
    times = torch.tensor([0.5], dtype=torch.float64)
    raw, kept = motion.field(rest, times).offsets, motion(rest, times).offsets
    assert torch.allclose(kept, gauge_project(raw, rest, True)) and not torch.allclose(kept, raw)
    motion.gauge = "none"
    assert torch.equal(motion(rest, times).offsets, raw)


def test_direct_paths_are_coefficients_on_the_basis():
    field = fields.Direct(2, Basis("polynomial", 5, 2)).double()
    with torch.no_grad():
        field.coefficients[0] = torch.tensor([[1.0, 0, 0], [0, 2.0, 0]])
    moved = field(points(2), torch.tensor([0.5], dtype=torch.float64)).offsets
    assert moved[0].tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    with pytest.raises(ShapeError, match=r"\[2, 3\]"):
        field(points(3), torch.tensor([0.5], dtype=torch.float64))


def test_one_node_moves_everything_rigidly_and_weights_sum_to_1():
    basis = Basis("polynomial", 5, 1)
    field = fields.Nodes(torch.tensor([[0.1, 0.2, 0.3]], dtype=torch.float64), basis).double()
    with torch.no_grad():
        field.rotation[0, 0], field.translation[0, 0] = torch.tensor([0.0, 0.0, 1.2]), torch.tensor([0.5, 0.0, 0.0])
    rest, time = points(), torch.tensor([0.5], dtype=torch.float64)
    there = field(rest, time)
    turn = rotation_from_vector(torch.tensor([0.0, 0.0, 0.6], dtype=torch.float64))
    expected = (rest - field.nodes) @ turn.T + field.nodes + torch.tensor([0.25, 0.0, 0.0])
    assert torch.allclose(rest + there.offsets[0], expected, atol=1e-12)
    assert torch.allclose(rotation_from_quaternion(there.turns[0]), turn.expand(12, 3, 3), atol=1e-9)
    many = fields.Nodes(points(7, seed=3), basis, nearest=3).double()
    weights = many.weights(rest)
    assert torch.allclose(weights.sum(dim=1), torch.ones(12, dtype=torch.float64))
    assert ((weights > 0).sum(dim=1) <= 3).all() and torch.equal(
        many.weights(many.nodes).argmax(dim=1), torch.arange(7)
    )


def test_nodes_that_move_alike_move_everything_rigidly():
    """A15: blending equal transforms gives that transform, whatever the weights."""
    basis = Basis("polynomial", 5, 1)
    field = fields.Nodes(points(6, seed=3), basis, nearest=4).double()
    vector, shift = torch.tensor([0.3, -0.5, 0.8]).double(), torch.tensor([0.2, 0.1, -0.4]).double()
    turn = rotation_from_vector(vector)
    with torch.no_grad():
        field.rotation[:, 0] = vector
        field.translation[:, 0] = field.nodes @ turn.T - field.nodes + shift
    rest = points()
    there = field(rest, torch.ones(1, dtype=torch.float64))
    assert (rest + there.offsets[0] - (rest @ turn.T + shift)).abs().max() < 1e-7
    assert torch.allclose(rotation_from_quaternion(there.turns[0]), turn.expand(12, 3, 3), atol=1e-9)


def small_hexplane(**changes):
    settings = {"channels": 1, "resolution": 2, "time_resolution": 2, "scales": (1,), "radius": 1.0, "hidden": 4}
    return fields.Hexplane(generator(), **(settings | changes)).double()


def test_hexplane_with_zero_heads_is_the_identity_and_with_time_planes_at_1_knows_no_time():
    """B1."""
    field, rest = small_hexplane(), points()
    times = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    there = field(rest, times)
    assert not there.offsets.any() and not there.log_scales.any()
    assert torch.equal(there.turns, torch.tensor([1.0, 0, 0, 0], dtype=torch.float64).expand(3, 12, 4))
    features = field.features(rest, times)
    assert torch.allclose(features[:1], features[1:], rtol=1e-13)
    assert all(plane.min() >= 0.1 and plane.max() <= 0.5 for plane in field.space)


def test_hexplane_features_match_a_hand_computation_on_2_by_2_grids():
    """B1. Planes hold corner values; place (x, y, z) and time read bilinear means, which are multiplied."""
    field = small_hexplane()
    corner = torch.tensor([[1.0, 2.0], [3.0, 5.0]], dtype=torch.float64)  # [row, column]
    for plane in (*field.space, *field.time):
        plane.data = corner[None, None].clone()
    x, y, z, time = -0.5, 0.0, 1.0, 0.25

    def bilinear(column, row):
        u, v = (column + 1) / 2, (row + 1) / 2
        return (1 - v) * ((1 - u) * 1 + u * 2) + v * ((1 - u) * 3 + u * 5)

    moment = 2 * time - 1
    expected = bilinear(x, y) * bilinear(x, z) * bilinear(y, z)
    expected *= bilinear(x, moment) * bilinear(y, moment) * bilinear(z, moment)
    place = torch.tensor([[x, y, z], [-3.0, y, z]], dtype=torch.float64)
    found = field.features(place, torch.tensor([time], dtype=torch.float64))[0, :, 0].detach()
    assert float(found[0]) == pytest.approx(expected, rel=1e-12)
    edge = field.features(
        torch.tensor([[-1.0, y, z]], dtype=torch.float64), torch.tensor([time], dtype=torch.float64)
    ).detach()
    assert float(found[1]) == pytest.approx(float(edge), rel=1e-12)  # outside the box: the border's features


def test_hexplane_passes_gradcheck():
    """B1."""
    field = shake(small_hexplane(has_shapes=False))
    names = [name for name, _ in field.named_parameters()]
    values = [parameter.detach().clone().requires_grad_() for parameter in field.parameters()]
    rest, times = points(3).requires_grad_(), torch.tensor([0.3, 0.8], dtype=torch.float64)

    def run(rest, *values):
        return torch.func.functional_call(field, dict(zip(names, values, strict=True)), (rest, times)).offsets

    assert torch.autograd.gradcheck(run, (rest, *values))


def test_spread_nodes_are_far_apart_and_errors_are_clear():
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    cloud = torch.cat([corners, 0.4 + 0.2 * torch.rand(50, 3, generator=generator())])
    found = fields.spread_nodes(cloud, 9, generator(3))
    assert {tuple(row) for row in corners.tolist()} <= {tuple(row) for row in found.tolist()}
    with pytest.raises(ConfigError, match=r"9 control nodes.*4 points"):
        fields.spread_nodes(cloud[:4], 9, generator())
    with pytest.raises(ShapeError, match="at least one node"):
        fields.Nodes(torch.zeros(0, 3), Basis("dct", 4))
    with pytest.raises(ConfigError, match=r"gauge is 'fixed'.*'project'"):
        Motion(SimilarityTrack(Basis("dct", 4)), fields.Still(), "fixed")
    with pytest.raises(ShapeError, match="at least one point"):
        small_motion("still")(torch.zeros(0, 3).double(), torch.zeros(1).double())


def test_groups_hold_every_parameter_once_under_the_names_of_the_configuration():
    for kind in KINDS:
        motion = small_motion(kind)
        groups = motion.groups()
        assert set(groups) <= set(MotionConfig.PARAMETERS) and set(MotionConfig.LEARNING_RATES) == set(
            MotionConfig.PARAMETERS
        )
        held = [id(value) for values in groups.values() for value in values]
        assert sorted(held) == sorted(id(value) for value in motion.parameters())
        rates = {name: 0.1 for name in MotionConfig.PARAMETERS}
        assert {group["name"] for group in motion.parameter_groups(rates)} == set(groups)
    with pytest.raises(ConfigError, match="no parameter group 'motion_rotations'"):
        small_motion("still").parameter_groups({"motion_rotations": 0.1})
    with pytest.raises(ConfigError, match=r"missing for motion_rotation"):
        small_motion("still").parameter_groups({})


def test_configurations_refuse_clips_of_one_frame_and_times_outside():
    for wrong in ({"frames": 1}, {"frames": 0}, {"reference": 1.2}, {"gauge": "fixed"}, {"field": {"kind": "rnn"}}):
        with pytest.raises(ValueError):
            MotionConfig(**wrong)
    quaternion = quaternion_from_vector(torch.zeros(3, dtype=torch.float64))
    assert quaternion.tolist() == pytest.approx([1.0, 0.0, 0.0, 0.0])
