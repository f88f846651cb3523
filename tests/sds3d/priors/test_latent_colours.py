"""The linear colours of latents, where a linear answer exists."""

from __future__ import annotations

import torch

from sds3d.priors.exact import ExactPrior, Mixture
from sds3d.priors.latent_colours import latent_colours

WEIGHT = 0.03 * torch.tensor([[1.0, 2.0, 0.0, -1.0], [0.0, 1.0, 1.0, 0.5], [-2.0, 0.0, 1.0, 1.0]])
BIAS = torch.tensor([0.4, 0.5, 0.6])


class LinearPrior(ExactPrior):
    """A prior whose decoder is affine, with pixels half as large as latents and a texture that averages to 0."""

    def __init__(self) -> None:
        super().__init__({"": Mixture.gaussian(torch.zeros(4, 8, 8), 1.0)})

    def latent_shape(self) -> tuple[int, int, int]:
        return 4, 8, 8

    def decode(self, z0: torch.Tensor) -> torch.Tensor:
        rgb = torch.einsum("kc,bchw->bkhw", WEIGHT, z0) + BIAS[:, None, None]
        texture = torch.tensor([[0.05, -0.05], [-0.05, 0.05]]).repeat(8, 8)
        return (rgb.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) + texture).permute(0, 2, 3, 1)


def test_an_affine_decoder_is_found() -> None:
    weight, bias = latent_colours(LinearPrior(), torch.Generator().manual_seed(0))
    torch.testing.assert_close(weight, WEIGHT, atol=2e-3, rtol=0)  # a few colours of a large random latent are cut off
    torch.testing.assert_close(bias, BIAS, atol=2e-3, rtol=0)
    assert weight.dtype == torch.float32


class HarshPrior(LinearPrior):
    """Most of its colours are cut off, so that the best linear answer depends on the latents that were drawn."""

    def decode(self, z0: torch.Tensor) -> torch.Tensor:
        return 20.0 * super().decode(z0) - 10.0


def test_it_repeats_with_the_generator_and_sees_no_global_seed() -> None:
    first = latent_colours(HarshPrior(), torch.Generator().manual_seed(1))[0]
    torch.manual_seed(5)
    again = latent_colours(HarshPrior(), torch.Generator().manual_seed(1))[0]
    other = latent_colours(HarshPrior(), torch.Generator().manual_seed(2))[0]
    # LAPACK's last bit depends on where its arrays lie in memory, so equal seeds agree to rounding, other seeds do not.
    torch.testing.assert_close(first, again, atol=1e-6, rtol=0)
    assert (first - other).abs().max() > 1e-3


def test_latents_have_the_shape_of_an_encoded_picture() -> None:
    prior = ExactPrior({"": Mixture.gaussian(torch.zeros(3, 6, 6), 1.0)})
    assert prior.latent_shape() == (3, 6, 6)
