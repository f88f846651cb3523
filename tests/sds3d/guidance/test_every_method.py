"""What holds for every row of the table: batches (T20), evaluations, calls, no graph, no values on the hot path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sds3d.cameras import Cameras, turntable
from sds3d.errors import ConfigError
from sds3d.guidance.branches import Draws
from sds3d.guidance.guide import Guidance
from sds3d.guidance.methods import METHODS
from sds3d.guidance.rules import Linear
from sds3d.priors.base import Query
from sds3d.prompts import Prompt

SINGLY = {"group": 1, "shared_t": False}
PIXELS = torch.rand(3, 6, 6, 3, generator=torch.Generator().manual_seed(9))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def one_of(draws: Draws, rows: slice) -> Draws:
    return Draws(t=draws.t[rows], epsilon=draws.epsilon[rows], uniform=draws.uniform[rows])


@pytest.fixture
def cameras() -> Cameras:
    """Front, side and overhead."""
    return replace(turntable(3, 6), elevation_deg=torch.tensor([0.0, 10.0, 75.0]))


@pytest.mark.parametrize("perp_neg", [None, 1.0], ids=["", "perp-neg"])
@pytest.mark.parametrize("name", METHODS)
def test_a_batch_is_three_single_samples(
    name: str, perp_neg: float | None, make_guide: Callable[..., Guidance], prompt: Prompt, cameras: Cameras
) -> None:
    """T20: every sample keeps its own noise, time, texts (front, side, overhead), wrong views, camera and source."""
    blend = Prompt(text=prompt.text, negative=prompt.negative, source=prompt.source)
    guide = make_guide(name, **SINGLY, perp_neg=perp_neg)
    z0, source = draw(3, 4, 6, 6, seed=1), draw(3, 4, 6, 6, seed=3)
    draws = Draws(
        t=torch.tensor([50, 400, 700]), epsilon=draw(3, 4, 6, 6, seed=2), uniform=torch.tensor([0.1, 0.9, 0.5])
    )
    step = 9  # late, when schedules have let every branch in
    together, _ = guide.gradient(z0, blend, cameras, step, draws, source)
    assert together.abs().amax(dim=(1, 2, 3)).min() > 1e-4
    for i in range(3):
        one = slice(i, i + 1)
        alone, _ = guide.gradient(z0[one], blend, cameras[one], step, one_of(draws, one), source[one])
        torch.testing.assert_close(together[one], alone, rtol=1e-3, atol=1e-4 * float(together.abs().max()))
    order = torch.tensor([1, 0, 2])
    swapped, _ = guide.gradient(z0, blend, cameras[order], step, draws, source)
    assert (swapped - together)[:2].abs().amax(dim=(1, 2, 3)).min() > 1e-3 * float(together.abs().max())


@pytest.mark.parametrize("kind", ["epsilon", "sample", "flow"])
@pytest.mark.parametrize("name", METHODS)
def test_what_the_network_outputs_does_not_matter(
    name: str, kind: str, make_guide: Callable[..., Guidance], prompt: Prompt
) -> None:
    """In a variance-preserving prior epsilon, v and sample agree; a flow has its own levels and stays finite."""
    z0, source = draw(2, 4, 6, 6, seed=1), draw(2, 4, 6, 6, seed=3)
    draws = Draws(t=torch.tensor([300, 300]), epsilon=draw(2, 4, 6, 6, seed=2), uniform=torch.tensor([0.5, 0.5]))
    first, second = (
        make_guide(name, kind=k).gradient(z0, prompt, turntable(2, 6), 0, draws, source)[0]
        for k in ("v_prediction", kind)
    )
    assert second.isfinite().all()
    if kind != "flow":
        torch.testing.assert_close(first, second, rtol=2e-3, atol=1e-3 * float(first.abs().max()))


class Counting:
    """Counts the calls of a network and the samples in them; notices a graph."""

    def __init__(self, predict: Callable[[Sequence[Query]], list[Tensor]]) -> None:
        self.predict = predict
        self.calls: list[int] = []

    def __call__(self, queries: Sequence[Query]) -> list[Tensor]:
        self.calls.append(sum(len(query.z_t) for query in queries))
        assert not any(query.z_t.requires_grad for query in queries)
        with torch.enable_grad():
            answers = self.predict(queries)
        assert not any(answer.requires_grad for answer in answers), "the network is evaluated without a graph"
        return answers

    @property
    def evaluations(self) -> int:
        return sum(self.calls)


def count(guide: Guidance, prompt: Prompt, step: int, t: int = 500, batch: int = 2) -> dict[str, Counting]:
    """Return what every network of `guide` was asked in one step at time `t`."""
    counters = {name: Counting(predict) for name, predict in guide.networks.items()}
    guide.networks = dict(counters)  # type: ignore[arg-type]
    z0 = draw(batch, 4, 6, 6, seed=1).requires_grad_()
    draws = Draws(t=torch.full((batch,), t), epsilon=draw(batch, 4, 6, 6, seed=2), uniform=torch.full((batch,), 0.5))
    guide.gradient(z0.detach(), prompt, turntable(batch, 6), step, draws, torch.zeros(batch, 4, 6, 6))
    return counters


@pytest.mark.parametrize("t", [30, 500, 699])
@pytest.mark.parametrize("name", METHODS)
def test_the_network_is_evaluated_as_often_as_the_table_says(
    name: str, t: int, make_guide: Callable[..., Guidance], prompt: Prompt
) -> None:
    """... and in one call, unless the points of a method lie on a path that must be walked."""
    row = METHODS[name]
    guide = make_guide(name, **({"negative": 0.4} if name == "csd" else {}))
    counters = count(guide, prompt, 9, t)
    expected = row.evaluations(guide.config, t) - row.training_evals
    assert counters["base"].evaluations == 2 * expected
    assert (counters["psi"].evaluations if row.trains else 0) == 2 * row.score_evals
    if type(guide.noiser).__name__ in ("GaussianNoiser", "EarlierNoiser", "ShiftedNoiser"):
        assert len(counters["base"].calls) == 1
    assert not row.trains or len(counters["psi"].calls) == 1


def test_examples_of_the_literature(make_guide: Callable[..., Guidance], prompt: Prompt) -> None:
    """ISM at t = 500 with an interval of 50 takes 6 evaluations; SDI takes 14, or 28 with Perp-Neg; SDS then 4."""
    empty = Prompt(text=prompt.text, source=prompt.source)
    assert count(make_guide("ism", interval=50), prompt, 0).pop("base").evaluations == 2 * 6
    assert count(make_guide("sdi"), prompt, 0).pop("base").evaluations == 2 * 14
    assert count(make_guide("sdi", perp_neg=1), empty, 0).pop("base").evaluations == 2 * 28
    assert count(make_guide("sds", perp_neg=1), empty, 0).pop("base").evaluations == 2 * 4
    assert count(make_guide("sds", perp_neg=1), prompt, 0).pop("base").evaluations == 2 * 5, "with a negative prompt"


def test_a_question_is_asked_once(make_guide: Callable[..., Guidance], prompt: Prompt) -> None:
    """Without a negative prompt "n" and "0" are the same; branches switched off by a schedule are not asked."""
    empty = Prompt(text=prompt.text)
    assert count(make_guide("csd", negative=0.4), empty, 0)["base"].evaluations == 2 * 2
    assert count(make_guide("csd"), prompt, 0)["base"].evaluations == 2 * 2, "the negative prompt comes in later"
    assert count(make_guide("csd"), prompt, 2)["base"].evaluations == 2 * 3
    assert count(make_guide("csd"), prompt, 9)["base"].evaluations == 2 * 2, "the empty one has gone"
    assert count(make_guide("bridge"), prompt, 0)["base"].evaluations == 2 * 2
    assert count(make_guide("sds", guidance_scale=1), prompt, 0)["base"].evaluations == 2 * 1


@pytest.mark.parametrize("name", METHODS)
def test_only_the_encoder_has_a_graph(name: str, make_guide: Callable[..., Guidance], prompt: Prompt) -> None:
    guide, cameras = make_guide(name), turntable(3, 6)
    before = cameras.cam_to_world.clone()
    rgb = PIXELS.clone().requires_grad_()
    loss, logs = guide(rgb, prompt, cameras, 9, torch.Generator().manual_seed(0), PIXELS.flip(1))
    loss.backward()
    assert rgb.grad is not None and rgb.grad.abs().max() > 0
    assert not any(value.requires_grad for value in logs.values())
    assert torch.equal(cameras.cam_to_world, before), "T7: features are made on a copy"


@pytest.mark.parametrize("settings", [{}, {"perp_neg": 1, "image_weight": 0.1, "pixel_filter": "pixel"}])
@pytest.mark.parametrize("name", METHODS)
def test_a_step_runs_without_values(
    name: str, settings: dict[str, Any], make_guide: Callable[..., Guidance], prompt: Prompt
) -> None:
    """On the meta device any hidden transfer, .item() or branch on a value fails."""
    guide = make_guide(name, device="meta", **settings)
    rgb = torch.rand(4, 6, 6, 3, device="meta", requires_grad=True)
    loss, logs = guide(rgb, prompt, turntable(4, 6).to("meta"), 0, torch.Generator(), rgb.detach())
    loss.backward()
    assert rgb.grad is not None and rgb.grad.shape == rgb.shape
    assert all(value.is_meta for value in logs.values())


@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if isinstance(row.rule(row.config()), Linear)])
def test_linear_methods_agree_with_their_evidence(
    name: str, make_guide: Callable[..., Guidance], prompt: Prompt
) -> None:
    """The gradient is weight x gain x the sum of coefficients times predictions, computed here from the evidence."""
    from sds3d.guidance.rules import value_of
    from sds3d.guidance.weights import WEIGHTS

    guide = make_guide(name, gain=0.5, clamp=None)
    z0, source = draw(3, 4, 6, 6, seed=1), draw(3, 4, 6, 6, seed=3)
    draws = Draws(t=torch.tensor([50, 400, 700]), epsilon=draw(3, 4, 6, 6, seed=2), uniform=torch.full((3,), 0.5))
    gradient, _, evidence = guide.distil(z0, prompt, turntable(3, 6), 5, draws, source)
    others = {"eps": evidence.epsilon, "z0": z0, "source": source}
    total = torch.zeros_like(z0)
    for key, coefficient in guide.rule.terms:  # type: ignore[attr-defined]
        value = others[key] if isinstance(key, str) else evidence.predictions.get(key)
        if value is not None:
            total = total + value_of(coefficient, evidence) * value
    torch.testing.assert_close(gradient, 0.5 * WEIGHTS[guide.config.weight](evidence) * total, rtol=1e-4, atol=1e-3)


def test_an_editing_method_wants_a_picture(make_guide: Callable[..., Guidance], prompt: Prompt) -> None:
    with pytest.raises(ConfigError, match=r"'dds' edits a picture, but none is given. Pass source="):
        make_guide("dds")(PIXELS, prompt, turntable(3, 6), 0, torch.Generator())
