"""Motion modules hooked into a UNet of pictures are diffusers' own motion network, and more UNets than that takes."""

import pytest
import torch

from sds3d.errors import ConfigError
from sds3d.priors.video.inflated import InflatedUNet, fits_motion_model

SMALL = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 8,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}


def parts(**changes):
    from diffusers import MotionAdapter, UNet2DConditionModel

    torch.manual_seed(0)
    adapter = MotionAdapter(
        block_out_channels=changes.pop("adapted", (8, 16)),
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=4,
        motion_max_seq_length=8,
    )
    return UNet2DConditionModel(**SMALL, **changes).eval(), adapter.eval()


def query(frames=5):
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(2, 4, frames, 8, 8, generator=generator),
        torch.tensor([3, 700]),
        torch.randn(2, 3, 8, generator=generator),
    )


@torch.no_grad()
def test_it_is_diffusers_motion_network():
    from diffusers import UNetMotionModel

    unet, adapter = parts()
    assert fits_motion_model(unet)
    z, times, text = query()
    theirs = UNetMotionModel.from_unet2d(unet, adapter).eval()
    wanted = theirs(z, times, encoder_hidden_states=text.repeat_interleave(5, dim=0)).sample
    assert torch.equal(InflatedUNet(unet, adapter)(z, times, text), wanted)


@torch.no_grad()
def test_cameras_and_scale_shift_are_kept_and_frames_see_each_other():
    unet, adapter = parts(
        class_embed_type="projection", projection_class_embeddings_input_dim=3, resnet_time_scale_shift="scale_shift"
    )
    assert not fits_motion_model(unet)
    network, (z, times, text) = InflatedUNet(unet, adapter), query()
    camera = torch.eye(3)[:2]
    answer = network(z, times, text, camera)
    assert answer.shape == z.shape and not torch.allclose(answer, network(z, times, text, camera.flip(0)))
    changed = z.clone()
    changed[:, :, 4] += 1.0
    assert (network(changed, times, text, camera) - answer)[:, :, 0].abs().max() > 1e-5
    assert network.config["motion_max_seq_length"] == 8 and network.config["class_embed_type"] == "projection"


def test_an_adapter_of_other_widths_is_refused():
    unet, adapter = parts(adapted=(8, 8))
    with pytest.raises(ConfigError, match=r"widths \[8, 8\].*UNet has widths \[8, 16\].*trained with this UNet"):
        InflatedUNet(unet, adapter)
