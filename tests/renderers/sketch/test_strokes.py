"""A10, A11, management, starts, checkpoints and mistakes."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from renderers.sketch import initialise, losses
from renderers.sketch.factory import from_state, sketch_renderer
from renderers.sketch.manage import dead, doubles
from renderers.sketch.renderer import SketchRenderer
from renderers.sketch.strokes import Strokes, inverse_softplus
from sds3d import bezier
from sds3d.cameras import turntable
from sds3d.config.sketch import SketchConfig
from sds3d.errors import ConfigError, ShapeError
from sds3d.export.sketch.sketch import Motion

WHITE = torch.ones(1, 3)
RATES = {"points": 0.01, "half_widths": 0.01, "opacities": 0.05, "colours": 0.05, "weights": 0.01}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.slow
def test_a_stroke_is_found_from_its_pictures():
    target = torch.tensor([[[0.0, -0.4, -0.3], [0.3, -0.2, 0.4], [-0.3, 0.1, -0.2], [0.1, 0.4, 0.3]]])
    cameras, paper = turntable(3, 64), torch.ones(3, 3)
    config = SketchConfig(count=1, control={"mode": "off"})
    truth = SketchRenderer(Strokes.of(target, half_width=0.02), config)
    with torch.no_grad():
        wanted = truth.show(cameras, paper).rgb
    shaken = target + 0.05 * torch.randn(target.shape, generator=seeded())
    sketch = SketchRenderer(Strokes.of(shaken, half_width=0.02), config, steps=150)
    optimiser = torch.optim.Adam(sketch.parameter_groups({**RATES, "points": 0.008}))
    for step in range(150):
        optimiser.zero_grad()
        render = sketch(cameras, paper)
        (render.rgb - wanted).square().mean().backward()
        optimiser.param_groups[0]["lr"] = 0.008 * (1 - step / 150) + 1e-4
        optimiser.step()
        sketch.after_step(step, optimiser, render)
    gap = torch.cdist(bezier.sample(sketch.points.detach(), 64)[0], bezier.sample(target, 64)[0])
    assert float(gap.amin(0).mean() + gap.amin(1).mean()) / 2 < 2e-3


@pytest.mark.slow
def test_distillation_of_an_exact_prior_draws_its_mean():
    from sds3d.guidance.guide import Guidance
    from sds3d.guidance.methods import METHODS
    from sds3d.priors.exact import ExactPrior, Mixture
    from sds3d.prompts import Prompt, TextRole

    target = 0.7 * initialise.in_sphere(3, 0.3, seeded(4), length=(0.6, 0.8))
    cameras, paper, config = turntable(1, 32), WHITE, SketchConfig(count=3, softness=1.0, control={"mode": "off"})
    with torch.no_grad():
        wanted = SketchRenderer(Strokes.of(target, half_width=0.05), config)(cameras, paper).rgb
    prompt = Prompt(text="a line")
    mean = 2.0 * wanted[0].permute(2, 0, 1) - 1.0
    texts = {text for role in get_args(TextRole)[:4] for text in prompt.texts(role)}
    prior = ExactPrior({text: Mixture.gaussian(mean, 0.05) for text in texts})
    guide = Guidance(prior, METHODS["sds"].config.model_validate({"guidance_scale": 1.0}), 200)
    shaken = target + 0.04 * torch.randn(target.shape, generator=seeded(1))
    sketch = SketchRenderer(Strokes.of(shaken, half_width=0.05), config, steps=200)
    optimiser = torch.optim.Adam(sketch.parameter_groups({**RATES, "points": 0.004}))
    errors = []
    for step in range(200):
        optimiser.zero_grad()
        render = sketch(cameras, paper)
        errors.append(float((render.rgb.detach() - wanted).square().mean()))
        loss, _ = guide(render.rgb, prompt, cameras, step, seeded(step), None, is_latent=False)
        loss.backward()
        optimiser.param_groups[0]["lr"] = 0.004 * (1 - step / 200) + 1e-5
        optimiser.step()
    assert np.mean(errors[-10:]) < 0.1 * errors[0]


def test_a_dead_stroke_is_drawn_again_and_its_moments_start_at_zero():
    config = SketchConfig(
        count=10, control={"every": 2, "start": 0, "stop": 1, "drop": False, "min_gradient": 0, "merge_distance": 0}
    )
    sketch = sketch_renderer(config, seeded(), steps=10)
    with torch.no_grad():
        sketch.opacities[3] = -6.0
    optimiser = torch.optim.Adam(sketch.parameter_groups(RATES))
    cameras, numbers = turntable(2, 32), {}
    before = sketch.points.detach().clone()
    for step in range(2):
        optimiser.zero_grad()
        render = sketch(cameras, torch.ones(2, 3))
        render.rgb.mean().backward()
        optimiser.step()
        numbers = sketch.after_step(step, optimiser, render)
    assert numbers == {"strokes_dead": 1.0, "strokes_merged": 0.0, "strokes_redrawn": 1.0}
    assert float(sketch.opacities[3].detach().sigmoid()) == pytest.approx(config.init_opacity)
    assert (sketch.points[3] - before[3]).norm() > 0.1
    assert (sketch.points - before)[[0, 1, 2, 4]].abs().max() < 0.03
    moments = optimiser.state[sketch.points]["exp_avg"]
    assert float(moments[3].abs().max()) == 0.0 and float(moments[2].abs().max()) > 0.0
    assert float(sketch.gradient.abs().max()) == 0.0
    nearest = torch.cdist(bezier.sample(sketch.points[3:4], 8)[0], bezier.sample(sketch.points, 8).flatten(0, 1)[:27])
    assert float(nearest.detach().min()) < 0.4


def test_the_dead_are_the_faint_the_short_and_the_unseen():
    config = SketchConfig()
    samples = bezier.sample(initialise.in_sphere(4, 0.5, seeded()), 8)
    samples[1] = samples[1, :1]
    opacity, gradient = torch.tensor([0.01, 0.9, 0.9, 0.9]), torch.tensor([1.0, 1.0, 1e-4, 1.0])
    alive = torch.tensor([True, True, True, True])
    assert dead(samples, opacity, gradient, alive, config).tolist() == [True, True, True, False]
    unjudged = torch.zeros(4)
    assert dead(samples, opacity, unjudged, alive, config).tolist() == [True, True, False, False]
    alive[0] = False
    assert dead(samples, opacity, gradient, alive, config).tolist() == [False, True, True, False]


def test_doubles_are_found_in_both_directions():
    points = initialise.in_sphere(3, 0.5, seeded())
    points = torch.cat([points, points[1:2].flip(1) + 0.001, points[0:1] + 0.2])
    pairs = doubles(bezier.sample(points, 16), torch.ones(5, dtype=torch.bool), 0.01)
    assert pairs.tolist() == [[1, 3]]


def test_the_last_round_drops_what_stayed_dead_but_not_everything():
    config = SketchConfig(count=3, control={"every": 1, "start": 0, "stop": 0.5, "max_share": 0.01})
    sketch = sketch_renderer(config, seeded(), steps=2)
    with torch.no_grad():
        sketch.opacities.fill_(-8.0)
    render = sketch(turntable(1, 16), WHITE)
    render.alpha.sum().backward()
    numbers = sketch.after_step(0, None, render)
    assert numbers == {"strokes_dead": 3.0, "strokes_merged": 0.0, "strokes_dropped": 2.0}
    assert int(sketch.alive.sum()) == 1 and len(sketch.to_sketch()) == 1


def test_the_last_round_draws_nothing_anew_and_drops_doubles_too():
    config = SketchConfig(count=4, control={"every": 1, "start": 0, "stop": 1, "min_gradient": 0})
    sketch = sketch_renderer(config, seeded(), steps=1)
    with torch.no_grad():
        sketch.opacities[0] = -8.0
        sketch.points[2] = sketch.points[1]
    before = sketch.points.detach().clone()
    render = sketch(turntable(1, 16), WHITE)
    render.alpha.sum().backward()
    numbers = sketch.after_step(0, None, render)
    assert numbers == {"strokes_dead": 2.0, "strokes_merged": 1.0, "strokes_dropped": 2.0}
    assert sketch.alive.tolist() == [False, True, False, True]
    assert torch.equal(sketch.points, before)


def test_regularisers_have_their_closed_forms():
    straight = torch.linspace(0, 0.6, 4)[None, :, None] * torch.tensor([1.0, 0, 0])
    samples = bezier.sample(straight, 16)
    assert float(losses.bound(samples)) == 0.0
    assert float(losses.bound(samples + torch.tensor([0.0, 2.0, 0.0]))) == pytest.approx(
        float(((samples[..., 0] ** 2 + 4).sqrt() - 1).square().mean()), rel=1e-5
    )
    assert float(losses.length(samples)) == 0.0
    assert float(losses.length(0.01 * samples)) == pytest.approx((0.006 - 0.05) ** 2, rel=1e-3)
    assert float(losses.bend(straight, samples)) == pytest.approx(0.0, abs=1e-9)
    bent = straight.clone()
    bent[0, 1, 1] = 0.3
    change = (0.3**2 * 4 + 0.3**2) / float(bezier.lengths(bezier.sample(bent, 16))) ** 2
    assert float(losses.bend(bent, bezier.sample(bent, 16))) == pytest.approx(change, rel=1e-4)
    corner = torch.cat([straight[0], straight[0, -1] + straight[0, 1:].flip(-1)])[None]
    assert float(losses.joint(corner)) == pytest.approx(1.0, abs=1e-6)
    assert float(losses.repel(samples, seeded())) == 0.0
    same, far = samples.repeat(2, 1, 1) * 0, torch.cat([samples, samples + 1.0])
    assert float(losses.repel(same, seeded())) == 1.0 and float(losses.repel(far, seeded())) < 1e-6


def test_a_checkpoint_brings_everything_back():
    config = SketchConfig(count=6, colours=True, rational=True)
    sketch = sketch_renderer(config, seeded(), steps=50)
    sketch.steps, sketch.alive[2] = 20, False
    sketch.gradient += 3.0
    again = from_state(sketch.state_dict(), config, steps=50)
    assert again.steps == 20 and again.seed == sketch.seed
    for name, value in sketch.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, again.state_dict()[name]), name
    assert again.softness == sketch.softness
    cameras = turntable(1, 32)
    assert torch.equal(sketch(cameras, WHITE).rgb, again(cameras, WHITE).rgb)


def test_softness_falls_and_shown_pictures_are_sharp():
    sketch = sketch_renderer(SketchConfig(count=4), seeded(), steps=100)
    assert sketch.softness == 2.0
    soft, sharp = sketch(turntable(1, 32), WHITE).rgb, sketch.show(turntable(1, 32), WHITE).rgb
    sketch.steps = 30
    assert sketch.softness == pytest.approx(0.5)
    assert torch.equal(sketch(turntable(1, 32), WHITE).rgb, sharp)
    assert float(soft.detach().min()) > float(sharp.detach().min())


def test_groups_hold_what_is_trained():
    plain = sketch_renderer(SketchConfig(count=2), seeded())
    assert [g["name"] for g in plain.parameter_groups(RATES)] == ["points", "half_widths", "opacities"]
    full = sketch_renderer(SketchConfig(count=2, colours=True, rational=True), seeded())
    assert {g["name"] for g in full.parameter_groups(RATES)} == set(RATES) == set(SketchConfig.LEARNING_RATES)
    with pytest.raises(ConfigError, match=r"no parameter group 'point'. Use 'points'"):
        plain.parameter_groups({"point": 0.1})
    with pytest.raises(ConfigError, match="missing for half_widths, opacities"):
        plain.parameter_groups({"points": 0.1})
    render = plain(turntable(1, 16), WHITE)
    assert [name for name, _ in plain.regularisers(render)] == list(SketchConfig.REGULARISERS)


def test_a_moved_sketch_is_drawn_elsewhere_and_comes_back():
    sketch, cameras = sketch_renderer(SketchConfig(count=3), seeded()), turntable(1, 32)
    rest = sketch(cameras, WHITE).rgb
    shift = sketch.rest_points + torch.tensor([0.0, 0.2, 0.0])
    with sketch.moved(shift):
        there = sketch(cameras, WHITE).rgb
    there.mean().backward()
    assert sketch.points.grad is not None and not torch.equal(rest, there)
    assert torch.equal(sketch(cameras, WHITE).rgb, rest)
    cameras = turntable(1, 128)  # in smaller pictures both would have the least radius
    with sketch.moved(sketch.rest_points, None, torch.tensor(1.5)):
        wide = sketch(cameras, WHITE).alpha
    assert float(wide.sum().detach()) > 1.2 * float(sketch(cameras, WHITE).alpha.sum().detach())


def test_a_moving_sketch_leaves_with_the_motion_of_its_living_strokes():
    sketch = sketch_renderer(SketchConfig(count=3), seeded())
    sketch.alive[0] = False
    offsets = np.zeros((2, 3, 4, 3))
    offsets[1] = np.arange(3)[:, None, None]
    still = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    plain = sketch.to_sketch("words", Motion(similarity=[still, still], centre=[0.0, 0.0, 0.0], offsets=offsets))
    assert len(plain) == 2 and plain.prompt == "words"
    moved = plain.points_at(1) - plain.points_at(0)
    np.testing.assert_allclose(moved, np.broadcast_to(np.array([1.0, 2.0])[:, None, None], (2, 4, 3)), atol=1e-12)


def test_a_whole_step_needs_no_values():
    """On the meta device tensors have no data: whatever would look at them raises."""
    sketch = sketch_renderer(SketchConfig(count=4, colours=True, rational=True), seeded()).to("meta")
    render = sketch(turntable(2, 16).to("meta"), torch.ones(2, 3, device="meta"))
    total = render.rgb.mean() + sum(term for _, term in sketch.regularisers(render))
    total.backward()
    optimiser = torch.optim.SGD(sketch.parameter_groups(RATES))
    optimiser.step()
    assert sketch.after_step(0, optimiser, render) == {}


def test_mistakes_are_explained():
    with pytest.raises(ConfigError, match="0 strokes, but at least 1 is needed"):
        Strokes.of(torch.zeros(0, 4, 3), half_width=0.01)
    with pytest.raises(ConfigError, match="0 strokes, but at least 1 is needed"):
        initialise.in_sphere(0, 0.5, seeded())
    with pytest.raises(ShapeError, match=r"points has shape \[2, 5, 3\], but \[strokes, 3 \* segments \+ 1, 3\]"):
        Strokes.of(torch.zeros(2, 5, 3), half_width=0.01)
    behind = SketchRenderer(Strokes.of(torch.tensor([[[9.0, 0, 0]] * 4]), half_width=0.01))
    with pytest.raises(ConfigError, match="All 1 strokes are behind the camera"):
        behind(turntable(1, 16), WHITE)
    with pytest.raises(ShapeError, match="background"):
        behind(turntable(1, 16), torch.ones(2, 3))
    with pytest.raises(ValueError, match="softness must stay above 0 pixels"):
        SketchConfig(softness=0)
    with pytest.raises(ValueError, match="start must be <= stop"):
        SketchConfig(control={"start": 0.8, "stop": 0.2})
    with pytest.raises(ValueError, match="a start is 'sphere'"):
        SketchConfig(init="ball")
    with pytest.raises(ValueError, match="a colour is three numbers"):
        SketchConfig(colour=(0, 0, 255))


def test_activations_are_inverted():
    width = torch.tensor([1e-4, 0.012, 0.5], dtype=torch.float64)
    assert torch.allclose(torch.nn.functional.softplus(inverse_softplus(width)), width, rtol=1e-9)
