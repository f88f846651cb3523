"""Networks of the bundled motion adapter: motion modules for the bundled UNet, its text encoder with words of motion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from sds3d.toybox.motions import motion_vocabulary
from sds3d.toybox.networks import make_text_encoder, make_unet
from sds3d.toybox.tokenizer import write_tokenizer

FRAMES = 8
HEADS = 4
SPECIAL_TOKENS = 2
"""Start and end of a text: the last two rows of every vocabulary of the toybox."""


def make_adapter(channels: tuple[int, ...] = (64, 128, 192)) -> Any:
    """Return an untrained MotionAdapter that changes nothing yet: its modules' last layers are zero."""
    from diffusers import MotionAdapter

    adapter: Any = MotionAdapter(
        block_out_channels=channels,
        motion_layers_per_block=1,
        motion_num_attention_heads=HEADS,
        motion_norm_num_groups=16,
        motion_max_seq_length=FRAMES,
    )
    for name, parameter in adapter.named_parameters():
        if "proj_out" in name:
            nn.init.zeros_(parameter)
    return adapter


def grown_text_encoder(prior: Path, vocabulary: int) -> Any:
    """Return the prior's text encoder for a larger vocabulary: words it knows keep their rows, new ones begin small."""
    from safetensors.torch import load_file

    encoder = make_text_encoder(vocabulary)
    state = load_file(prior / "text_encoder" / "model.safetensors")
    (name,) = (key for key in state if key.endswith("token_embedding.weight"))
    known = state[name]
    rows = encoder.state_dict()[name].clone()
    words = len(known) - SPECIAL_TOKENS
    rows[:words], rows[-SPECIAL_TOKENS:] = known[:words].float(), known[-SPECIAL_TOKENS:].float()
    encoder.load_state_dict({**state, name: rows})
    return encoder


def make_tokenizer(folder: Path) -> Any:
    """Write and return the toybox's tokenizer with the words of motions as tokens of their own."""
    from transformers import CLIPTokenizer

    write_tokenizer(folder, motion_vocabulary())
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def trainable(prior: Path, vocabulary: int, seed: int, **unet: Any) -> nn.ModuleDict:
    """Return what is trained, {"adapter", "text"}, in float32."""
    from diffusers.models.attention_processor import AttnProcessor

    torch.manual_seed(seed)
    adapter = make_adapter(**unet)
    for module in adapter.modules():
        if hasattr(module, "set_processor"):  # the fused CPU attention is slower at eight frames
            module.set_processor(AttnProcessor())
    return nn.ModuleDict({"adapter": adapter, "text": grown_text_encoder(prior, vocabulary)})


def frozen_unet(prior: Path, **unet: Any) -> Any:
    """Return the prior's UNet, frozen, with the attention that is fast on CPUs."""
    from diffusers.models.attention_processor import AttnProcessor
    from safetensors.torch import load_file

    network = make_unet(**unet)
    network.load_state_dict(load_file(prior / "unet" / "diffusion_pytorch_model.safetensors"))
    network.set_attn_processor(AttnProcessor())
    return network.eval().requires_grad_(False)
