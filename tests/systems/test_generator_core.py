"""The loop of a generator's training on exact priors: who gets a gradient, who is asked, what a step adds up to."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sds3d.config.generator import GeneratorRecipe
from sds3d.errors import ConfigError
from sds3d.generators.fake import MlpScore, fake_loss
from sds3d.generators.identity import sid_loss
from sds3d.generators.toys import RING_TEXT, PointGenerator, ring_coverage, ring_prior
from systems.generator_core import GeneratorCore, PromptList
from systems.generator_parallel import batch_number
from systems.generator_rules import windowed


def recipe(method: str = "sds", **changes: Any) -> GeneratorRecipe:
    guidance = {"method": method, "guidance_scale": 1, "weight": "sds", "t_min": 0.02, "t_max": 0.98}
    data: dict[str, Any] = {
        "network": {"kind": "image"},
        "turns": 1,
        "views": ({"kind": "identity"},),
        "teachers": ({"guidance": guidance},),
        "fake": {"kind": "adapter" if method == "vsd" else "none", "learning_rate": 2e-3},
        "cameras": {"views": 1},
        "optimiser": {"learning_rate": 1e-3},
        "training": {"steps": 10, "batch": 4},
    }
    return GeneratorRecipe.model_validate({**data, **changes})


def core(settings: GeneratorRecipe, seed: int = 0) -> GeneratorCore:
    draws, prior = torch.Generator().manual_seed(seed), ring_prior()
    generator = PointGenerator(prior.levels, 2, 64, draws)
    fakes = [MlpScore(prior, 2, 64, draws) for _ in settings.teachers] if settings.fake.kind != "none" else None
    priors = [prior, *[ring_prior() for _ in settings.teachers[1:]]]
    return GeneratorCore(settings, generator, priors, prior.text, PromptList([RING_TEXT]), fakes=fakes)


def gradient(made: GeneratorCore) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in made.generator.parameters()])


def test_the_fake_score_learns_without_touching_the_generator_and_the_other_way_round() -> None:
    made = core(recipe("vsd"))
    made.accumulate()
    assert all(p.grad is None for p in made.fake.networks[0].parameters())
    before = gradient(made).clone()
    values = [p.detach().clone() for p in made.fake.networks[0].parameters()]
    made.train_fake(0)
    assert torch.equal(gradient(made), before)
    assert any((old - new).abs().max() > 0 for old, new in zip(values, made.fake.networks[0].parameters(), strict=True))


def test_score_identity_refuses_a_teacher_without_a_graph() -> None:
    made = core(recipe("vsd", loss="sid"))
    with pytest.raises(ConfigError, match=r"none\. Use a latent diffusion model"):
        made.accumulate()
    assert all(p.requires_grad for p in made.fake.networks[0].parameters())  # unfrozen again


def test_score_identity_has_its_expected_value_with_a_perfect_fake() -> None:
    draws = torch.Generator().manual_seed(0)
    clean = torch.randn(4, 3, 1, 1, generator=draws, dtype=torch.float64)
    real, fake = (torch.randn(4, 3, 1, 1, generator=draws, dtype=torch.float64) for _ in range(2))
    delta = real - fake
    scale = (clean - real).abs().mean(dim=(1, 2, 3), keepdim=True)
    expected = (delta * ((real - clean) - 1.2 * delta) / scale).sum(dim=(1, 2, 3)).mean()
    torch.testing.assert_close(sid_loss(clean, real, fake, 1.2), expected)
    assert float(sid_loss(fake, real, fake, 1.0)) == pytest.approx(0.0, abs=1e-12)  # x = f_psi: (1 - a) |delta|^2
    assert float(sid_loss(fake, real, fake, 1.2)) < 0


def test_gradients_of_teachers_add_up_and_a_disabled_one_is_never_asked() -> None:
    one = recipe().teachers[0].model_dump()

    def total(first: float, second: float) -> torch.Tensor:
        made = core(recipe(teachers=({**one, "weight": first}, {**one, "weight": second})))
        made.accumulate()
        return gradient(made)

    made = core(recipe(teachers=(one, {**one, "weight": 0.0})))
    made.teachers[1].predict = made.guides[0][1].networks["base"] = _never  # type: ignore[method-assign]
    made.accumulate()
    alone = gradient(made)
    torch.testing.assert_close(total(2.0, 0.0), 2.0 * alone, rtol=1e-4, atol=1e-6)
    assert (total(1.0, 1.0) - alone).abs().max() > 0


def _never(queries: Any) -> Any:
    raise AssertionError("a teacher of weight 0 was asked")


def test_accumulated_batches_are_the_batches_of_more_processes() -> None:
    numbers = [batch_number(3, 0, 1, rank, 2) for rank in (0, 1)]
    assert numbers == [batch_number(3, part, 2, 0, 1) for part in (0, 1)]
    made = core(recipe(training={"steps": 10, "batch": 4, "accumulate": 2}))
    made.accumulate()
    both = gradient(made)
    parts = []
    for number in (0, 1):
        single = core(recipe())
        single.backward_batch(number, 1.0)
        parts.append(gradient(single))
    torch.testing.assert_close(both, 0.5 * (parts[0] + parts[1]), rtol=1e-4, atol=1e-6)


def test_one_drawn_turn_gets_the_gradient_and_all_processes_draw_the_same() -> None:
    made = core(recipe(turns=4, trains="one"))
    drawn = [made.trained_turns(number) for number in range(40)]
    assert all(len(turns) == 1 for turns in drawn) and set().union(*drawn) == {0, 1, 2, 3}
    several = core(recipe(turns=4, trains="one", training={"steps": 10, "batch": 4, "accumulate": 2}))
    assert several.trained_turns(6) == several.trained_turns(7) == made.trained_turns(3)
    assert core(recipe(turns=4)).trained_turns(0) == {0, 1, 2, 3}


def test_prompts_take_turns_once_an_epoch() -> None:
    made = core(recipe(training={"steps": 10, "batch": 3}))
    made.prompts = PromptList([str(n) for n in range(6)])
    epochs = [made.prompts_of(0) + made.prompts_of(1), made.prompts_of(2) + made.prompts_of(3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == [str(n) for n in range(6)] and epochs[0] != epochs[1]


def test_windows_of_turns() -> None:
    config = recipe().teachers[0].guidance
    assert windowed(config, "shared", 1, 4) is config
    band = [windowed(config, "band", k, 4) for k in range(4)]
    assert [(round(c.t_min.values[0], 2), round(c.t_max.values[0], 2)) for c in band] == [
        (0.75, 0.98), (0.5, 0.75), (0.25, 0.5), (0.02, 0.25),
    ]  # fmt: skip
    assert windowed(config, "upper", 2, 4).t_max.values == (0.5,)


def test_a_step_never_reads_values() -> None:
    from sds3d.generators.tiny import TinyTriplaneGenerator
    from sds3d.generators.toys import BALLS, ball_prior

    settings = GeneratorRecipe.model_validate(
        {
            "base": None,
            "network": {"kind": "tiny", "channels": 4, "split": False, "hidden": 8, "width": 8, "latent_size": 4},
            "turns": 2,
            "teachers": ({"guidance": {"method": "mvdream-recon", "guidance_scale": 2}},),
            "views": (
                {"kind": "volume", "size": 16, "volume": {"samples": 8}},
                {"kind": "volume", "size": 16, "volume": {"samples": 8, "normals": True, "coarse": 8}, "eikonal": 1},
            ),
            "cameras": {"views": 2},
            "optimiser": {"clip": 1, "kind": "adan", "betas": [0.98, 0.92, 0.99]},
        }
    )
    prior = ball_prior(device="meta")  # has no data: reading a value would fail
    generator = TinyTriplaneGenerator(settings.network, prior.levels, 1, torch.Generator().manual_seed(0)).to("meta")
    made = GeneratorCore(settings, generator, [prior], prior.text, PromptList(list(BALLS)))
    made.step()
    assert made.steps_done == 1 and all(p.grad is not None for p in generator.trained().values() if p.ndim > 3)


def test_fake_loss_hides_prompts_and_weighs_levels() -> None:
    prior = ring_prior()
    network = MlpScore(prior, 2, 8, torch.Generator().manual_seed(0))
    latents, text = torch.randn(64, 2, 1, 1), prior.text([RING_TEXT]).expand(64, -1, -1)
    seen: list[float] = []
    original = network.output
    network.output = lambda queries: (seen.append(float((queries[0].text == 9).float().mean())), original(queries))[1]  # type: ignore
    config = recipe("vsd", fake={"kind": "adapter", "dropout": 0.5, "weight": "alpha2"}).fake
    null = torch.full((1, 1, 1), 9.0)
    loss = fake_loss(network, prior, latents, text, null, config, torch.Generator().manual_seed(1))
    plain = config.model_copy(update={"weight": "uniform", "dropout": 0.0})
    assert loss < fake_loss(network, prior, latents, text, null, plain, torch.Generator().manual_seed(1))
    assert 0.2 < seen[0] < 0.8 and seen[1] == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vsd", "sds", "frozen"])
def test_a_ring_of_modes_is_covered_only_with_a_trained_fake_score(kind: str) -> None:
    method = "sds" if kind == "sds" else "vsd"
    fake = {"kind": "adapter", "learning_rate": 2e-3, "steps": 2, "warm_up": 200} if method == "vsd" else {}
    made = core(recipe(method, fake=fake, training={"steps": 500, "batch": 256}))
    if kind == "frozen":
        made.train_fake = lambda number: None  # type: ignore[method-assign]
    for _ in range(500):
        made.step()
    with torch.no_grad():
        noise = made.generator.noise(2000, torch.Generator().manual_seed(7))
        points = made.generator.predict_clean(noise, 999, torch.empty(0)).flatten(1)
    found = ring_coverage(points)
    if kind == "vsd":
        assert found["modes"] == 4 and found["near"] >= 0.55 and 0.15 < found["spread"] < 0.4
    else:
        assert found["modes"] <= 1
        assert kind == "frozen" or found["radius"] < 0.5
