"""A UNet of pictures with motion modules between its layers: any `UNet2DConditionModel` and any motion adapter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from sds3d.errors import ConfigError
from sds3d.priors.video.base import channels_first, frames_first


class InflatedUNet(nn.Module):
    """A UNet that looks at frames one by one, and motion modules behind its layers that look along time.

    It computes what diffusers' `UNetMotionModel.from_unet2d` computes, and also serves UNets that class cannot hold:
    with camera or class embeddings, with pooled text, with times that scale and shift. The UNet itself is not changed;
    its layers carry hooks. Shapes as `UNetMotionModel`: samples [B, C, F, h, w].

    Args:
        unet: diffusers' `UNet2DConditionModel`. adapter: diffusers' `MotionAdapter` for the same widths.
    Raises: ConfigError if the two have other numbers of layers or other widths.
    Source: AnimateDiff (arXiv 2307.04725), section 4.2: modules behind each layer of a block, and in the middle.
    """

    def __init__(self, unet: Any, adapter: Any) -> None:
        super().__init__()
        self.unet, self.adapter = unet, adapter
        self.frames = 1
        for layer, module in _places(unet, adapter):
            layer.register_forward_hook(self._moved_by(module))

    @property
    def config(self) -> dict[str, Any]:
        """The UNet's configuration, and the longest clip under the key that `UNetMotionModel` has for it."""
        return {**self.unet.config, "motion_max_seq_length": self.adapter.config["motion_max_seq_length"]}

    def forward(self, sample: Tensor, timestep: Tensor, text: Tensor, camera: Tensor | None = None) -> Tensor:
        """Return the UNet's output [B, C, F, h, w].

        Args:
            sample: [B, C, F, h, w]. timestep: [B]. text: [B, tokens, dim]. camera: [B, D] for the class embedding.
        """
        clips, self.frames = sample.shape[0], sample.shape[2]
        told = [None if row is None else row.repeat_interleave(self.frames, dim=0) for row in (timestep, text, camera)]
        given = {} if camera is None else {"class_labels": told[2]}
        output: Tensor = self.unet(frames_first(sample), told[0], encoder_hidden_states=told[1], **given).sample
        return channels_first(output, clips)

    def _moved_by(self, module: Any) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (module(output[0], num_frames=self.frames), *output[1:])
            return module(output, num_frames=self.frames)

        return hook


def _places(unet: Any, adapter: Any) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Yield each layer of the UNet and the motion module that works on what comes out of it."""
    blocks = [*zip(unet.down_blocks, adapter.down_blocks, strict=False)]
    blocks += [(unet.mid_block, adapter.mid_block)] if adapter.mid_block is not None else []
    blocks += [*zip(unet.up_blocks, adapter.up_blocks, strict=False)]
    counts = [(len(_layers(block)), len(motion.motion_modules)) for block, motion in blocks]
    wide = [int(width) for width in unet.config["block_out_channels"]]
    if any(layers != modules for layers, modules in counts) or wide != [*adapter.config["block_out_channels"]]:
        raise ConfigError(
            f"The motion adapter is for blocks of widths {[*adapter.config['block_out_channels']]} with "
            f"{[modules for _, modules in counts]} layers, but the UNet has widths {wide} with "
            f"{[layers for layers, _ in counts]} layers. Give the adapter that was trained with this UNet.",
            path="prior.video.motion_adapter",
        )
    for block, motion in blocks:
        yield from zip(_layers(block), motion.motion_modules, strict=True)


def _layers(block: Any) -> list[nn.Module]:
    """Return the layers of a block behind which there is a motion module: attentions, or residual blocks."""
    return [*(getattr(block, "attentions", None) or block.resnets)]


def fits_motion_model(unet: Any) -> bool:
    """Return whether diffusers' own `UNetMotionModel` can hold all of this UNet."""
    config = unet.config
    plain = config.get("resnet_time_scale_shift") == "default" and config.get("class_embed_type") is None
    return bool(plain and config.get("addition_embed_type") in (None, "text_time"))
