"""Networks of the bundled video prior: a UNet over stacked frames that begins with the bundled one, words of motion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sds3d.toybox.motions import motion_vocabulary
from sds3d.toybox.networks import LATENT_CHANNELS, make_text_encoder, make_unet
from sds3d.toybox.tokenizer import write_tokenizer

FRAMES = 8
CHANNELS = (64, 96, 144)
"""Widths: in float16 the prior stays below 15 MB. The widest maps are not narrower than those of the bundled UNet, as
they carry the 32 channels of a clip."""
SPECIAL_TOKENS = 2
"""Start and end of a text: the last two rows of every vocabulary of the toybox."""


def make_stacked_unet(channels: tuple[int, ...] = CHANNELS, frames: int = FRAMES) -> Any:
    """Return an untrained UNet whose channels are the frames of a clip, or rows of their transform over time."""
    return make_unet(channels=channels, frames=frames)


def kept(of: int, count: int) -> Tensor:
    """Return which `count` of `of` channels are kept, evenly spread: [count] int64, rising."""
    return (torch.arange(count) * of).div(count, rounding_mode="floor")


def thinned(wide: dict[str, Tensor], network: nn.Module, joined: dict[int, tuple[int, int]]) -> dict[str, Tensor]:
    """Return a state for `network` made of every so many channels of the wider network's state.

    Args:
        wide: parameters of the wider network, same names.
        joined: widths that are two sets of channels side by side, {wide: (first of wide, first of narrow)}: each set is
            thinned by itself.
    """
    state = network.state_dict()
    for name, narrow in state.items():
        value = wide[name].float()
        if name.startswith(("conv_in.", "conv_out.")):
            value = _of_first_row(value, narrow, is_input=name == "conv_in.weight")
        for axis, (of, count) in enumerate(zip(value.shape, narrow.shape, strict=True)):
            if of == count:
                continue
            if of in joined and count == joined[of][1] + of - joined[of][0]:
                first, small = joined[of]
                rows = torch.cat([kept(first, small), torch.arange(first, of)])
            else:
                rows = kept(of, count)
            value = value.index_select(axis, rows)
        state[name] = value
    return state


def _of_first_row(value: Tensor, narrow: Tensor, is_input: bool) -> Tensor:
    """Return a layer of one frame as one of all rows: the mean frame goes the known way, other rows go out as zero."""
    axis = 1 if is_input else 0
    if value.shape[axis] != LATENT_CHANNELS:
        return value
    others = narrow.narrow(axis, LATENT_CHANNELS, narrow.shape[axis] - LATENT_CHANNELS)
    return torch.cat([value, others if is_input else torch.zeros_like(others)], dim=axis)


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


def trainable(prior: Path, vocabulary: int, seed: int, from_pictures: bool = True, **unet: Any) -> nn.ModuleDict:
    """Return what is trained, {"unet", "text"}, in float32; the UNet begins with channels of that of the folder `prior`."""
    from diffusers.models.attention_processor import AttnProcessor
    from safetensors.torch import load_file

    torch.manual_seed(seed)
    network = make_stacked_unet(**unet)
    if from_pictures:
        wide = load_file(prior / "unet" / "diffusion_pytorch_model.safetensors")
        first, second, _ = network.config["block_out_channels"]
        network.load_state_dict(thinned(wide, network, joined={128 + 64: (128, second)} if first == 64 else {}))
    network.set_attn_processor(AttnProcessor())  # the fused CPU attention is slower in training
    return nn.ModuleDict({"unet": network, "text": grown_text_encoder(prior, vocabulary)})
