"""Names of MVDream's weights: from the published checkpoint layout to diffusers' names, one to one.

Source: bytedance/MVDream, mvdream/ldm/modules/diffusionmodules/openaimodel.py (class MultiViewUNetModel) for the
published names; diffusers UNet2DConditionModel for the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from sds3d.errors import AssetError

Value = TypeVar("Value")

VIEWS = 4
"""Views of a group in the published models."""

PREFIXES = ("model.diffusion_model.", "unet.", "")
"""Where published files keep the UNet: bytedance's checkpoints, KokeCacao/mvdream-hf, ashawkey/mvdream-sd2.1-diffusers."""

CAMERA_KEY = "camera_embed.0.weight"
"""A name every file of this family holds, and files of plain Stable Diffusion do not."""

_OUTER = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "camera_embed.0": "class_embedding.linear_1",
    "camera_embed.2": "class_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
}
_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_BLOCK = re.compile(r"(input|output)_blocks\.(\d+)\.(\d+)\.(.+)")


def unet_part(names: Iterable[str]) -> dict[str, str]:
    """Return {name without prefix: name in the file} of the UNet's weights among `names`, other weights left out.

    Raises: AssetError if the names are not those of an MVDream UNet in any published layout.
    """
    known = set(names)
    for prefix in PREFIXES:
        if prefix + CAMERA_KEY in known:
            return {name.removeprefix(prefix): name for name in sorted(known) if name.startswith(prefix)}
    example = min(known, default="nothing")
    raise AssetError(
        f"The weights hold no camera embedding ('{CAMERA_KEY}', with or without a prefix), so they are not MVDream's; "
        f"they hold, for example, '{example}'. Give the weights of MVDream's UNet, or use another kind of prior."
    )


def diffusers_name(name: str, layers_per_block: int) -> str:
    """Return what diffusers calls the weight the published UNet calls `name` (without prefix).

    Args:
        layers_per_block: residual blocks a level has on its way down (`num_res_blocks`, 2 in the published models).
    Raises: AssetError for a name the published UNet does not have.
    """
    block = _BLOCK.fullmatch(name)
    if block and name.startswith("input_blocks.0."):
        block = None
    if block is None:
        for old, new in _OUTER.items():
            if name.startswith(old + "."):
                return _inner(f"{new}{name.removeprefix(old)}")
        raise _unknown(name)
    side, index, place, rest = block[1], int(block[2]), int(block[3]), block[4]
    level, layer = divmod(index - (side == "input"), layers_per_block + 1)
    head = f"{'down' if side == 'input' else 'up'}_blocks.{level}"
    if rest.startswith(("op.", "conv.")):  # a change of resolution; on the way up it stands after resnet and attention
        sampler = "downsamplers" if side == "input" else "upsamplers"
        return f"{head}.{sampler}.0.conv.{rest.split('.', 1)[1]}"
    if place > 1:
        raise _unknown(name)
    return _inner(f"{head}.{('resnets', 'attentions')[place]}.{layer}.{rest}")


def to_diffusers(weights: Mapping[str, Value], layers_per_block: int) -> dict[str, Value]:
    """Return the UNet's weights (or their shapes) of a published file under diffusers' names.

    Raises: AssetError as `unet_part` and `diffusers_name` do.
    """
    found = unet_part(weights)
    return {diffusers_name(name, layers_per_block): weights[there] for name, there in found.items()}


def _inner(name: str) -> str:
    """Return `name` with the layers inside a residual block renamed; those of transformer blocks have the same names."""
    for old, new in _RESNET.items():
        if f".{old}." in name and ".resnets." in name:
            return name.replace(f".{old}.", f".{new}.")
    return name


def _unknown(name: str) -> AssetError:
    return AssetError(
        f"The weights of MVDream's UNet hold '{name}', which the published model does not have. ImageDream and other "
        "relatives are not supported; give the weights of MVDream."
    )
