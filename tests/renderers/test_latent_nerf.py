"""Fields of latents: what is drawn, what is shown, and how they become fields of colours."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from renderers.fields.latents import LatentMixing
from renderers.nerf import LatentDecoder, NerfRenderer, nerf_renderer
from sds3d.cameras import turntable
from sds3d.config.nerf import EncodingConfig, NerfConfig, OccupancyConfig, SamplingConfig

LATENTS = 5
RATES = dict.fromkeys(NerfConfig.PARAMETERS, 1e-2)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def field_of_latents(channels: str = "latent", **options: object) -> NerfRenderer:
    """Return a field whose latents vary in space, and that knows a map to colours."""
    config = NerfConfig.model_validate(
        {
            "channels": channels,
            "sampling": SamplingConfig(mode="uniform", count=24),
            "occupancy": OccupancyConfig(resolution=8),
            "encoding": EncodingConfig(levels=2, base_resolution=4, finest_resolution=8, log2_table_size=10),
            **options,
        }
    )
    renderer = nerf_renderer(config, draws(), LATENTS)
    with torch.no_grad():
        renderer.field.encoding.table.normal_(generator=draws(1))  # type: ignore[union-attr,operator]
    assert renderer.field.mixing is not None
    renderer.field.mixing.take(torch.randn(3, LATENTS, generator=draws(2)), torch.rand(3, generator=draws(3)))
    return renderer


def test_a_plain_colour_has_latents_that_are_shown_as_it() -> None:
    mixing = LatentMixing(LATENTS)
    mixing.take(torch.randn(3, LATENTS, generator=draws()), torch.rand(3, generator=draws(1)))
    colours = torch.rand(7, 3, generator=draws(2))
    found = mixing.to_latents(colours)
    torch.testing.assert_close(mixing.to_rgb(found), colours, atol=1e-5, rtol=0)
    kernel = torch.linalg.svd(mixing.weight.detach()).Vh[3:]  # what the map does not see: the shortest has none of it
    assert (found @ kernel.T).abs().max() < 1e-5


@pytest.mark.parametrize("options", [{}, {"background": "learnt", "background_share": 1.0}])
def test_colours_of_a_picture_of_latents_are_the_picture_of_colours(options: dict[str, object]) -> None:
    """The map is affine and the weights of a ray, background included, sum to 1: they may be exchanged."""
    latent, coloured = field_of_latents(**options), field_of_latents("rgb", **options)
    coloured.load_state_dict(latent.state_dict())
    cameras, background = turntable(2, 10), torch.rand(2, 3, generator=draws(4))
    of_latents, of_colours = latent(cameras, background), coloured(cameras, background)
    assert of_latents.is_latent and of_latents.rgb.shape == (2, 10, 10, LATENTS) and not of_colours.is_latent
    assert of_latents.rgb.min() < 0, "latents have no bounds"
    torch.testing.assert_close(latent.field.mixing.to_rgb(of_latents.rgb), of_colours.rgb, atol=2e-4, rtol=1e-4)  # type: ignore[union-attr]
    torch.testing.assert_close(of_latents.alpha, of_colours.alpha)


def test_pictures_are_shown_by_the_decoder_or_by_the_map() -> None:
    renderer, cameras, white = field_of_latents(), turntable(2, 12), torch.ones(2, 3)
    shown = renderer.show(cameras, white)
    assert shown.rgb.shape == (2, 12, 12, 3) and not shown.is_latent and 0 <= shown.rgb.min() < shown.rgb.max() <= 1
    seen: list[Tensor] = []

    def decode(latents: Tensor) -> Tensor:
        seen.append(latents)
        return torch.full((len(latents), 18, 18, 3), 0.25)

    renderer.decoder = LatentDecoder(decode, 6)
    shown = renderer.show(cameras, white)
    assert seen[0].shape == (2, LATENTS, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(seen[0].permute(0, 2, 3, 1), renderer(turntable(2, 6), white).rgb)
    assert shown.alpha.shape == (2, 12, 12, 1)
    torch.testing.assert_close(shown.rgb, torch.full((2, 12, 12, 3), 0.25))
    points = torch.rand(50, 3, generator=draws(5)) - 0.5
    assert renderer.color_at(points).min() >= 0 and renderer.color_at(points).max() <= 1


def test_the_layer_is_trained_only_where_colours_are_drawn() -> None:
    for channels, expected in (("latent", False), ("rgb", True)):
        renderer = field_of_latents(channels, background="learnt", background_share=1.0)
        groups = {group["name"]: group["params"] for group in renderer.parameter_groups(RATES)}
        weight = renderer.field.mixing.weight  # type: ignore[union-attr]
        assert any(parameter is weight for parameter in groups["network"]) is expected
        renderer(turntable(1, 8), torch.ones(1, 3)).rgb.square().sum().backward()
        assert (weight.grad is not None) is expected
        assert all(parameter.grad is not None for group in groups.values() for parameter in group)


def test_a_field_of_colours_has_none_of_it() -> None:
    plain = nerf_renderer(NerfConfig(), draws())
    assert plain.field.mixing is None and not plain.is_latent
    assert not any("mixing" in name for name in plain.state_dict())


def test_a_step_runs_without_values() -> None:
    """On the device "meta" nothing has a value, so anything that waits for one fails."""
    from sds3d.guidance.guide import Guidance
    from sds3d.guidance.methods import SdsConfig
    from sds3d.priors.exact import ExactPrior, Mixture
    from sds3d.prompts import Prompt

    texts = dict.fromkeys(("a mug", ""), Mixture.gaussian(torch.zeros(3, 8, 8), 1.0))
    guide = Guidance(ExactPrior(texts, device="meta"), SdsConfig(), 10)
    config = NerfConfig(channels="latent", sampling=SamplingConfig(mode="uniform", count=8), background="learnt")
    renderer, cameras = nerf_renderer(config, draws(), 3).to("meta"), turntable(2, 12).to("meta")
    render = renderer(cameras, torch.ones(2, 3, device="meta"))
    prompt = Prompt(text="a mug", view_dependent=False)
    loss, _ = guide(render.rgb, prompt, cameras, 0, draws(), is_latent=True)
    loss.backward()
    assert loss.is_meta and renderer.field.encoding.table.grad is not None  # type: ignore[union-attr]
