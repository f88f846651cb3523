"""MVDream's network out of diffusers' UNet: self-attention over all views of an object, and a camera embedding.

The published network differs from Stable Diffusion's UNet in two things only: self-attention sees the tokens of the
whole group of views as one sequence, and an MLP of the camera is added to the time embedding. diffusers' UNet has a place
for both, so that no network is written twice.

Source: MVDream (arXiv 2308.16512), section 3.1; bytedance/MVDream, mvdream/ldm/modules/attention.py and
diffusionmodules/openaimodel.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sds3d.errors import AssetError

CAMERA_SIZE = 16
"""Length of the camera condition, a 4x4 matrix."""

PUBLISHED_CLASSES = ("MultiViewUNetModel", "MultiViewUNetWrapperModel")
"""What config.json calls the published network in folders made by ashawkey and KokeCacao."""

_PUBLISHED = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": 1,
    "camera_dim": CAMERA_SIZE,
}
PUBLISHED: dict[int, dict[str, Any]] = {
    1024: {**_PUBLISHED, "context_dim": 1024, "num_head_channels": 64, "use_linear_in_transformer": True},
    768: {**_PUBLISHED, "context_dim": 768, "num_heads": 8},
}
"""Configurations of sd-v2.1-base-4view and sd-v1.5-4view by the width of their text (mvdream/configs of the source)."""


class ViewAttention:
    """An attention processor in which `views` consecutive samples attend to one another.

    Samples [groups * views, tokens, width] become sequences [groups, views * tokens, width] and back. `views` 1 is
    ordinary self-attention.
    """

    def __init__(self, views: int) -> None:
        from diffusers.models.attention_processor import AttnProcessor2_0

        self.views = views
        self._inner = AttnProcessor2_0()

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Return [groups * views, tokens, width]; the signature is that of diffusers' processors."""
        joined = hidden_states.unflatten(0, (-1, self.views)).flatten(1, 2)
        seen: Tensor = self._inner(attn, joined, encoder_hidden_states, attention_mask, temb)
        return seen.unflatten(1, (self.views, -1)).flatten(0, 1)


def make_multi_view(unet: Any, views: int) -> Any:
    """Return `unet` (a UNet2DConditionModel with 16 camera inputs) changed in place into MVDream's network.

    Self-attention spans `views` consecutive samples, cross-attention does not; samples whose camera is all zeros get no
    camera embedding at all, as the published network does without cameras.
    """
    processors = dict(unet.attn_processors)
    across = ViewAttention(views)
    processors.update({name: across for name in processors if name.endswith("attn1.processor")})
    unet.set_attn_processor(processors)
    unet.class_embedding.register_forward_hook(_only_where_there_is_a_camera)
    return unet


def _only_where_there_is_a_camera(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output * (inputs[0] != 0).any(dim=1, keepdim=True).to(output.dtype)


def diffusers_config(published: Mapping[str, Any]) -> dict[str, Any]:
    """Return UNet2DConditionModel's arguments for the configuration of a published network.

    Args:
        published: `unet_config.params` of bytedance's YAML files, or the config.json of a MultiViewUNetModel.
    Raises: AssetError if a key is missing or asks for what the published models do not have.
    """
    try:
        channels = [published["model_channels"] * factor for factor in published["channel_mult"]]
        attends = [2**level in published["attention_resolutions"] for level in range(len(channels))]
        per_head = published.get("num_head_channels", -1)
        # diffusers' "attention_head_dim" is the number of heads.
        heads = [int(published["num_heads"])] if per_head in (None, -1) else [width // per_head for width in channels]
        arguments = {
            "sample_size": published["image_size"],
            "in_channels": published["in_channels"],
            "out_channels": published["out_channels"],
            "layers_per_block": published["num_res_blocks"],
            "cross_attention_dim": published["context_dim"],
            "projection_class_embeddings_input_dim": published["camera_dim"],
        }
    except (KeyError, TypeError) as error:
        raise AssetError(
            f"The configuration of MVDream's UNet cannot be used: {error}. It must hold the keys of bytedance's "
            "sd-v2-base.yaml (unet_config.params); restore the file from its source."
        ) from error
    if published.get("ip_dim"):
        raise AssetError(
            f"The configuration asks for image prompts ('ip_dim' is {published['ip_dim']}), which MVDream does not have. "
            "ImageDream is not supported; give a folder of MVDream."
        )
    return {
        **arguments,
        "block_out_channels": channels,
        "attention_head_dim": heads if len(heads) > 1 else heads[0],
        "transformer_layers_per_block": published.get("transformer_depth", 1),
        "use_linear_projection": bool(published.get("use_linear_in_transformer", False)),
        "class_embed_type": "projection",
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
    }


def published_config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the configuration of the published model whose weights (names without prefix) have these `shapes`.

    Raises: AssetError if it is none of them.
    """
    width = next((shape[1] for name, shape in sorted(shapes.items()) if name.endswith("attn2.to_k.weight")), None)
    if width not in PUBLISHED:
        raise AssetError(
            f"The checkpoint reads texts of width {width}, but the published models read "
            f"{' or '.join(str(known) for known in PUBLISHED)}. Give sd-v2.1-base-4view or sd-v1.5-4view."
        )
    return PUBLISHED[width]


def build_unet(published: Mapping[str, Any], weights: Mapping[str, Tensor], views: int, dtype: torch.dtype) -> Any:
    """Return MVDream's network with `weights`, a published file's tensors by name, in number type `dtype`.

    Raises: AssetError if weights and configuration do not belong together; nothing is left at random numbers.
    """
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from sds3d.priors.mvdream.keys import to_diffusers

    config = diffusers_config(published)
    with torch.device("meta"):  # weights are assigned below: no time is lost with random numbers
        unet = UNet2DConditionModel(**config)
    state = {name: value.to(dtype) for name, value in to_diffusers(weights, config["layers_per_block"]).items()}
    try:
        unet.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise AssetError(
            f"MVDream's UNet cannot be loaded: {' '.join(str(error).split())[:300]} Its configuration and weights must "
            "belong together; restore the folder from its source."
        ) from error
    return make_multi_view(unet, views)
