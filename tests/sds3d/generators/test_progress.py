"""The loop from noise to object: times, noise, what carries a gradient (G1-G4, G29)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sds3d.errors import ConfigError
from sds3d.generators.base import LatentGenerator, Latents
from sds3d.generators.progress import renoised, run_turns, sample, turn_times
from sds3d.priors.noise_levels import variance_preserving


class LinearGenerator(LatentGenerator):
    """x0 = weight z + shift(text): as simple as a generator can be."""

    def __init__(self) -> None:
        super().__init__()
        self.levels, self.slots, self.latent_shape = variance_preserving(), 2, (3, 1, 1)
        self.weight = nn.Parameter(torch.tensor(0.7))
        self.asked: list[tuple[int, bool]] = []

    def predict_clean(self, z: Tensor, t: int, text: Tensor) -> Tensor:
        self.asked.append((t, torch.is_grad_enabled()))
        return self.weight * z + text[:, 0].mean(dim=1).repeat_interleave(self.slots)[:, None, None, None]

    def decode(self, latents: Tensor) -> Latents:
        return Latents(latents)


TEXT = torch.tensor([[[1.0]], [[2.0]]])


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_times_are_the_published_ones() -> None:
    assert turn_times(4, 1000) == (999, 749, 499, 249)
    assert turn_times(1, 1000) == (999,)
    assert turn_times(1000, 1000)[-1] == 0
    with pytest.raises(ConfigError, match="1 to 1000 are possible"):
        turn_times(0, 1000)


def test_noise_levels_there_are_those_of_the_page() -> None:
    alpha, sigma = variance_preserving().at(torch.tensor([999, 749, 499, 249]))
    expected = torch.tensor([0.0683, 0.2380, 0.5269, 0.8218])
    torch.testing.assert_close(alpha.flatten(), expected, atol=1e-4, rtol=0)
    assert float(alpha[0] ** 2) == pytest.approx(0.00466, abs=1e-5)  # SwiftBrush's code has the constant 0.0047
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))


def test_the_first_noising_of_pure_noise_is_pure_noise() -> None:
    generator = LinearGenerator()
    alpha, sigma = generator.alpha_sigma(999)
    noise, fresh = torch.randn(2, 40_000, generator=draws())
    z = renoised(noise, None, alpha, sigma, fresh, "fresh")
    assert abs(float(z.mean())) < 0.02 and abs(float(z.var()) - 1.0) < 0.03


def test_predicted_noise_is_put_back() -> None:
    generator = LinearGenerator()
    (a1, s1), (a2, s2) = generator.alpha_sigma(999), generator.alpha_sigma(749)
    clean, noise = torch.randn(2, 5, generator=draws()).double()
    z = a1 * clean + s1 * noise
    torch.testing.assert_close(
        renoised(clean, (z, a1, s1), a2, s2, torch.zeros(5), "predicted"), a2 * clean + s2 * noise, atol=1e-6, rtol=0
    )


def _loss(clean: Tensor) -> Tensor:
    return (clean**3).sum()


def test_gradient_of_the_loop_is_the_sum_of_single_turns_and_not_that_through_all() -> None:
    generator, times = LinearGenerator(), turn_times(4, 1000)
    inputs, total = [], 0.0
    for turn in run_turns(generator, TEXT, times, draws(), trains=lambda k: True):
        inputs.append(turn.clean.detach())
        _loss(turn.clean).backward()
    looped = generator.weight.grad.clone()
    again = draws()
    clean = generator.noise(2, again)
    undetached = clean
    chain = torch.zeros(())
    for k, t in enumerate(times):
        alpha, sigma = generator.alpha_sigma(t)
        fresh = generator.noise(2, again)
        single = generator.predict_clean(alpha * clean + sigma * fresh, t, TEXT)
        total = total + torch.autograd.grad(_loss(single), generator.weight)[0]
        undetached = generator.predict_clean(alpha * undetached + sigma * fresh, t, TEXT)
        chain = chain + _loss(undetached)
        clean = inputs[k]
    torch.testing.assert_close(looped, total, rtol=1e-5, atol=0)
    through = torch.autograd.grad(chain, generator.weight)[0]
    assert abs(float(through / looped) - 1.0) > 1e-3


def test_only_chosen_turns_have_a_graph_and_none_reaches_back() -> None:
    generator = LinearGenerator()
    turns = list(run_turns(generator, TEXT, turn_times(4, 1000), draws(), trains={2}.__contains__))
    assert [turn.clean.requires_grad for turn in turns] == [False, False, True, False]
    assert [grad for _, grad in generator.asked] == [False, False, True, False]
    node, depth = turns[2].clean.grad_fn, 0
    while node is not None and node.next_functions:
        node, depth = node.next_functions[0][0], depth + 1
    assert depth < 5  # weight * z + shift, nothing of the turns before


def test_sampling_repeats_with_its_seed_and_ends_at_the_last_clean_latent() -> None:
    generator = LinearGenerator()
    first, second = (sample(generator, TEXT, 4, draws(3)) for _ in range(2))
    assert torch.equal(first, second) and not first.requires_grad
    assert (first - sample(generator, TEXT, 4, draws(4))).abs().max() > 0
    assert [t for t, _ in generator.asked[:4]] == [999, 749, 499, 249]


def test_text_belongs_to_its_object() -> None:
    clean = sample(LinearGenerator(), TEXT, 1, draws()).view(2, 2, 3)
    noise = sample(LinearGenerator(), torch.zeros_like(TEXT), 1, draws()).view(2, 2, 3)
    torch.testing.assert_close(clean - noise, TEXT.expand(2, 2, 3))
