"""Adapters on a frozen UNet and autoencoder: low rank for each plane, for text, for convolutions; planes that see each other.

Everything is a forward hook or an attention processor that acts only inside `Adapters.active()`. So the weights of the base
are shared with a teacher that is asked in between, and its answers stay the same bit by bit.

Source: parameter-efficient triplane adaptation of TriplaneTurbo (arXiv 2503.21694): rank 16, six sets for self-attention, one
for cross-attention, LoCon for convolutions. Deviations: fused attention; planes may be told their view (`Adapters.views`)
where the base listens to cameras; the output adapter of self-attention acts beside the projection, not after it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sds3d.errors import ConfigError
from sds3d.priors.lora import LowRank

SELF, CROSS = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"), (
    "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0",
)  # fmt: skip
DECODER = ("to_q", "to_k", "to_v", "to_out.0")
CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv")
"""Ends of the paths of what is adapted (names of the diffusers library)."""


class SlotLowRank(nn.Module):
    """One `LowRank` a plane, for inputs [B * slots, tokens, inputs] in object-major order."""

    def __init__(self, inputs: int, outputs: int, rank: int, slots: int, generator: torch.Generator | None) -> None:
        super().__init__()
        down = torch.empty(slots, rank, inputs)
        self.down = nn.Parameter(down if generator is None else torch.randn(down.shape, generator=generator) / rank)
        self.up = nn.Parameter(torch.zeros(slots, outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Return [B * slots, tokens, outputs] float32."""
        six = x.float().unflatten(0, (-1, self.down.shape[0]))
        hidden = torch.einsum("bsni,sri->bsnr", six, self.down)
        return torch.einsum("bsnr,sor->bsno", hidden, self.up).flatten(0, 1)


class LowRankConvolution(nn.Module):
    """A k x k convolution down to `rank` channels and a 1 x 1 convolution up, beside a frozen convolution ("LoCon")."""

    def __init__(self, base: nn.Conv2d, rank: int, generator: torch.Generator | None) -> None:
        super().__init__()
        kernel = base.weight.shape[2:]
        down = torch.empty(rank, base.in_channels, *kernel)
        self.down = nn.Parameter(down if generator is None else torch.randn(down.shape, generator=generator) / rank)
        self.up = nn.Parameter(torch.zeros(base.out_channels, rank, 1, 1))
        self.stride, self.padding = base.stride, base.padding

    def forward(self, x: Tensor) -> Tensor:
        """Return what is added to the convolution's output, float32."""
        hidden = nn.functional.conv2d(x.float(), self.down, stride=self.stride, padding=self.padding)  # type: ignore[arg-type]
        return nn.functional.conv2d(hidden, self.up)


class JointAttention:
    """An attention processor: while active, the `slots` consecutive samples of an object are one sequence."""

    def __init__(self, before: Any, slots: int, owner: Adapters) -> None:
        self.before, self.slots, self.owner = before, slots, owner

    def __call__(self, attention: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the attention's output [B * slots, tokens, C] (before the residual of its block)."""
        if not self.owner.is_active or self.slots == 1:
            return self.before(attention, hidden_states, *args, **kwargs)  # type: ignore[no-any-return]
        tokens = hidden_states.shape[1]
        parts = [getattr(attention, name)(hidden_states) for name in ("to_q", "to_k", "to_v")]
        heads = [
            part.reshape(-1, self.slots * tokens, attention.heads, part.shape[-1] // attention.heads).transpose(1, 2)
            for part in parts
        ]
        mixed = nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        return attention.to_out[0](mixed.reshape(-1, tokens, mixed.shape[-1]))  # type: ignore[no-any-return]


class Adapters(nn.Module):
    """All that is trained on a base model, and what attaches it.

    Args:
        unet, decoder: frozen networks of the diffusers library; `decoder` may be None for pictures.
        rank: of all adapters. slots: planes of an object. joint: whether planes attend to each other.
        channels: of the decoder's new last convolution. views: [slots, D] camera features each plane starts with, for a UNet
            with a camera condition. generator: CPU generator of the first values; None on the meta device.
    Raises: ConfigError for a UNet without self-attention to adapt.
    """

    def __init__(
        self,
        unet: nn.Module,
        decoder: nn.Module | None,
        *,
        rank: int,
        slots: int,
        joint: bool,
        channels: int,
        views: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.is_active = False
        self.slots, self.rank, self._draws = slots, rank, generator
        self.layers = nn.ModuleList()
        self.names: list[str] = []
        self.views = None if views is None else nn.Parameter(views.clone())
        for name, layer in _linears(unet, SELF):
            self._attach(
                f"unet.{name}", layer, SlotLowRank(layer.in_features, layer.out_features, rank, slots, generator)
            )
        if not self.names:
            raise ConfigError("The base model's UNet has no self-attention that could be adapted. Use another.", "base")
        for name, layer in _linears(unet, CROSS):
            self._attach(f"unet.{name}", layer, self._low_rank(layer))
        if decoder is not None:
            for name, layer in _linears(decoder, DECODER):
                self._attach(f"decoder.{name}", layer, self._low_rank(layer))
        for name, convolution in _convolutions(unet):
            self._attach(f"unet.{name}", convolution, LowRankConvolution(convolution, rank, generator))
        if decoder is not None:
            self._adapt_decoder(decoder, channels)
        if joint and slots > 1:
            for name, module in unet.named_modules():
                if name.endswith("attn1"):
                    module.set_processor(JointAttention(module.processor, slots, self))  # type: ignore[operator,union-attr]

    def _adapt_decoder(self, decoder: nn.Module, channels: int) -> None:
        *inner, (name, last) = _convolutions(decoder, is_decoder=True)
        for place, convolution in inner:
            self._attach(f"decoder.{place}", convolution, LowRankConvolution(convolution, self.rank, self._draws))
        device = torch.device("meta") if last.weight.is_meta else None
        new = nn.Conv2d(last.in_channels, channels, 3, padding=1, device=device)
        if self._draws is not None:
            with torch.no_grad():
                size = (9 * last.in_channels) ** -0.5
                new.weight.copy_(torch.randn(new.weight.shape, generator=self._draws) * size)
                new.bias.zero_()  # type: ignore[union-attr]
        self.last = new

        def replaced(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return self.last(inputs[0].float()) if self.is_active else output  # type: ignore[no-any-return]

        self.names.append(f"decoder.{name} (new)")
        last.register_forward_hook(replaced)

    def _low_rank(self, layer: nn.Linear) -> LowRank:
        if self._draws is not None:
            return LowRank(layer.in_features, layer.out_features, self.rank, self._draws)
        return LowRank(layer.in_features, layer.out_features, self.rank, torch.Generator())

    def _attach(self, name: str, base: nn.Module, adapter: nn.Module) -> None:
        self.names.append(name)
        self.layers.append(adapter)

        def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output + adapter(inputs[0]).to(output.dtype) if self.is_active else output

        base.register_forward_hook(add)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Let the adapters act inside."""
        self.is_active = True
        try:
            yield
        finally:
            self.is_active = False


def _linears(network: nn.Module, endings: tuple[str, ...]) -> list[tuple[str, nn.Linear]]:
    return [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Linear) and n.endswith(endings)]


def _convolutions(network: nn.Module, is_decoder: bool = False) -> list[tuple[str, nn.Conv2d]]:
    """Return the convolutions that get an adapter, in order; of a decoder also its last one, at the end.

    A decoder without residual blocks of the usual names (AutoencoderTiny) has all of its convolutions adapted.
    """
    every = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    chosen = [(name, module) for name, module in every if name.endswith(CONVOLUTIONS)]
    if not is_decoder:
        return chosen
    return [*chosen, every[-1]] if chosen else every
