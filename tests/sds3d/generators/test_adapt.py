"""Adapting a latent diffusion model: nothing changes at first, planes see each other and no other object, sizes (G8-G10)."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from sds3d.generators.adapt import Adapters, JointAttention, SlotLowRank
from sds3d.generators.heads import FieldHeads
from sds3d.generators.tiny import PlaneAttention, clean_from
from sds3d.priors.parametrisation import epsilon_to_clean, epsilon_to_output


@cache
def _networks() -> tuple[Any, Any]:
    from diffusers.models.autoencoders.vae import Decoder
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=8,
        use_linear_projection=True,
    ).eval()
    decoder = Decoder(
        in_channels=4,
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(16,),
        layers_per_block=1,
        norm_num_groups=8,
    )
    return unet.requires_grad_(False), decoder.requires_grad_(False)


def fresh() -> tuple[Any, Any]:
    import copy

    return copy.deepcopy(_networks())  # hooks and processors stay with the copy


def adapters(unet: Any, decoder: Any, **changes: Any) -> Adapters:
    settings: dict[str, Any] = {"rank": 4, "slots": 6, "joint": True, "channels": 10}
    return Adapters(unet, decoder, **{**settings, "generator": torch.Generator().manual_seed(1), **changes})


def inputs(objects: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(2)
    z, text = torch.randn(objects * 6, 4, 8, 8, generator=draws), torch.randn(objects, 3, 8, generator=draws)
    return z, torch.full((objects * 6,), 500), text.repeat_interleave(6, dim=0)


def ask(unet: Any, z: Tensor, t: Tensor, text: Tensor) -> Tensor:
    return unet(z, t, encoder_hidden_states=text).sample


def test_at_first_planes_that_do_not_attend_to_each_other_get_the_bases_answer() -> None:
    unet, decoder = fresh()
    before = ask(unet, *inputs())
    added = adapters(unet, decoder, joint=False)
    with added.active(), torch.no_grad():
        torch.testing.assert_close(ask(unet, *inputs()), before, atol=1e-6, rtol=0)


def test_joint_attention_with_a_block_diagonal_mask_would_be_the_bases() -> None:
    from diffusers.models.attention_processor import Attention, AttnProcessor2_0

    attention = Attention(query_dim=16, heads=2, dim_head=8).eval()
    x = torch.randn(12, 5, 16, generator=torch.Generator().manual_seed(0))

    class Always:
        is_active = True

    joint = JointAttention(AttnProcessor2_0(), 6, Always())  # type: ignore[arg-type]
    with torch.no_grad():
        found = joint(attention, x)
        q, k, v = (getattr(attention, name)(x).view(2, 30, 2, 8) for name in ("to_q", "to_k", "to_v"))
        share = (torch.einsum("bnhd,bmhd->bhnm", q, k) / 8**0.5).softmax(-1)
        expected = attention.to_out[0](torch.einsum("bhnm,bmhd->bnhd", share, v).reshape(12, 5, 16))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        block = torch.block_diag(*[torch.ones(5, 5)] * 6).bool()
        logits = torch.einsum("bnhd,bmhd->bhnm", q, k) / 8**0.5
        masked = logits.masked_fill(~block, float("-inf")).softmax(-1)
        apart = attention.to_out[0](torch.einsum("bhnm,bmhd->bnhd", masked, v).reshape(12, 5, 16))
        torch.testing.assert_close(apart, AttnProcessor2_0()(attention, x), atol=1e-6, rtol=0)


def test_an_object_depends_on_all_of_its_planes_and_on_no_other_object() -> None:
    unet, decoder = fresh()
    added = adapters(unet, decoder)
    for parameter in added.parameters():
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    z, t, text = inputs()
    with added.active(), torch.no_grad():
        first = ask(unet, z, t, text)
        moved = z.clone()
        moved[7] += 1.0  # plane 1 of object 1
        second = ask(unet, moved, t, text)
    assert torch.equal(first[:6], second[:6])
    assert all((first[6 + plane] - second[6 + plane]).abs().max() > 0 for plane in range(6))


def test_the_base_answers_as_before_outside_and_each_plane_has_its_own_set() -> None:
    unet, decoder = fresh()
    before = ask(unet, *inputs())
    added = adapters(unet, decoder)
    for parameter in added.parameters():
        parameter.data.add_(0.1)
    assert torch.equal(ask(unet, *inputs()), before)
    layer = SlotLowRank(3, 2, 4, 6, torch.Generator().manual_seed(0))
    layer.up.data[4] = 1.0
    changed = layer(torch.ones(12, 5, 3)).abs().amax(dim=(1, 2)) > 0
    assert changed.nonzero()[:, 0].tolist() == [4, 10]


def test_all_adapters_get_a_gradient_and_the_base_none() -> None:
    unet, decoder = fresh()
    added = adapters(unet, decoder)
    with added.active():
        latents = ask(unet, *inputs(1))
        features = decoder(latents)
    assert features.shape == (6, 10, 8, 8)
    features.square().mean().backward()
    assert all(p.grad is not None for n, p in added.named_parameters())
    ups = [p for n, p in added.named_parameters() if n.endswith("up")]
    assert all(p.grad.abs().max() > 0 for p in ups)
    assert all(p.grad is None for p in [*unet.parameters(), *decoder.parameters()])


def test_parameters_are_as_many_as_published_for_stable_diffusion_2_1() -> None:
    from diffusers.models.autoencoders.vae import Decoder
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64, cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True
        )
        decoder = Decoder(
            in_channels=4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        )
    added = Adapters(unet, decoder, rank=16, slots=6, joint=True, channels=64)
    count = sum(p.numel() for p in (*added.parameters(), *FieldHeads(32, 64, None).parameters()))
    base = sum(p.numel() for p in (*unet.parameters(), *decoder.parameters()))
    assert base == pytest.approx(915.4e6, rel=1e-4)
    assert count == pytest.approx(22.68e6, rel=1e-3)
    assert count / base == pytest.approx(0.0248, abs=1e-4)
    convolutions = [name for name in added.names if "conv" in name and "(new)" not in name]
    assert len(convolutions) == 97


def test_tiny_attention_is_joint_or_not() -> None:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(12, 16, 2, 2, generator=draws)
    moved = x.clone()
    moved[0] += torch.randn(x[0].shape, generator=draws)
    for joint, others in ((True, 5), (False, 0)):
        layer = PlaneAttention(16, 6, joint)
        change = (layer(x) - layer(moved)).abs().amax(dim=(1, 2, 3)) > 0
        assert int(change[1:6].sum()) == others and not change[6:].any()


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_outputs_become_clean_latents(kind: str) -> None:
    z, epsilon = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)).double()
    alpha, sigma = torch.tensor(0.6).double(), torch.tensor(0.8).double()
    output = epsilon_to_output(epsilon, z, alpha, sigma, kind)  # type: ignore[arg-type]
    torch.testing.assert_close(clean_from(output, z, alpha, sigma, kind), epsilon_to_clean(epsilon, z, alpha, sigma))  # type: ignore[arg-type]
