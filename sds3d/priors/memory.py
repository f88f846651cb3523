"""Switches that make a large prior fit into a small card, or run faster; none of them changes what is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from sds3d.priors.loading import Network


@dataclass(frozen=True, kw_only=True)
class MemorySwitches:
    """How networks are laid out in memory and run; predictions are equal up to rounding.

    Args:
        vae_slicing: pass the images of a batch through the autoencoder one by one.
        vae_tiling: pass overlapping tiles of large images through the autoencoder and blend the seams (not exact at
            seams; only images larger than the autoencoder was made for are cut).
        attention_slicing: compute attention head by head; slow, needed only where PyTorch has no fused attention.
        channels_last: store convolution weights channels-last, which many GPUs prefer.
        compile: compile the UNet (and ControlNets) with torch.compile at the first call, which takes minutes.
        cpu_offload: keep weights in main memory and bring each layer's to the device for its forward pass (accelerate's
            `cpu_offload`): peak memory of one layer, at the price of copying all weights at every call. Layers asked
            for a gradient (autoencoder, low-rank adapters) keep theirs on the device until the backward pass.
    """

    vae_slicing: bool = False
    vae_tiling: bool = False
    attention_slicing: bool = False
    channels_last: bool = False
    compile: bool = False
    cpu_offload: bool = False


def place(network: Network, device: torch.device, switches: MemorySwitches) -> Network:
    """Return `network` on `device`, or in main memory with hooks that bring it there layer by layer."""
    if switches.channels_last:
        network.to(memory_format=torch.channels_last)
    if switches.cpu_offload and device.type != "meta":
        from accelerate import cpu_offload

        cpu_offload(network, execution_device=device)
        return network
    return network.to(device)


def set_up_denoiser(network: Network, device: torch.device, switches: MemorySwitches) -> Network:
    """Return a UNet or ControlNet on `device` with the switches that concern it turned on."""
    if switches.attention_slicing:
        network.set_attention_slice("auto")
    placed = place(network, device, switches)
    if switches.compile:
        placed.compile()  # in place: names of layers, which low-rank adapters look for, stay
    return placed


def set_up_autoencoder(network: Network, device: torch.device, switches: MemorySwitches) -> Network:
    """Return an autoencoder on `device` with the switches that concern it turned on."""
    if switches.vae_slicing:
        network.enable_slicing()
    if switches.vae_tiling:
        network.enable_tiling()
    return place(network, device, switches)
