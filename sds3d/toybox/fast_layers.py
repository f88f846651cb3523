"""Drop-in forward passes for small convolutions on CPUs: the same weights and result, meant to save training time.

oneDNN's bfloat16 kernels fill their tile rows with the pixels of one image row; at 8x8 and 4x4 most of a tile stays empty.
`StripConv2d` lays the batch side by side, one zero column between images, so rows are long; `PointConv2d` runs 1x1
convolutions as matrix products. `use_fast_layers` changes the class of a network's convolutions in place; parameters and
their names stay, so checkpoints do not know of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

STRIPS = 4
"""Groups a batch is split into: enough for two cores, long enough rows. Compare 2, 4 and 8 with benchmarks/layers.py."""

LARGEST_WIDTH = 8
"""Wider rows fill the tiles by themselves; packing them would only cost time."""


def _pack(images: Tensor) -> Tensor:
    """Lay [B, C, H, W] out as [STRIPS, C, H, B / STRIPS * (W + 1)] in channels-last memory; the extra columns are zero."""
    batch, channels, height, width = images.shape
    strips = images.new_zeros(STRIPS, height, batch // STRIPS, width + 1, channels)
    grouped = images.view(STRIPS, batch // STRIPS, channels, height, width)
    strips[:, :, :, :width].copy_(grouped.permute(0, 3, 1, 4, 2))
    return strips.view(STRIPS, height, -1, channels).permute(0, 3, 1, 2)


def _unpack(strips: Tensor, batch: int, width: int) -> Tensor:
    """Undo `_pack`: return [B, C, H, W], contiguous."""
    groups, channels, height, _ = strips.shape
    images = strips.permute(0, 2, 3, 1).view(groups, height, batch // groups, width + 1, channels)[:, :, :, :width]
    return images.permute(0, 2, 4, 1, 3).reshape(batch, channels, height, width)


class _StripConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        strips = _pack(images)
        ctx.save_for_backward(strips, weight)
        ctx.batch, ctx.width = images.shape[0], images.shape[3]
        return _unpack(torch.conv2d(strips, weight, bias, padding=1), ctx.batch, ctx.width)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        strips, weight = ctx.saved_tensors
        packed = _pack(upstream[0].contiguous())
        # The zero columns get no upstream gradient, so the sums over them add nothing to the weight gradient.
        image_grad, weight_grad, bias_grad = torch.ops.aten.convolution_backward(
            packed, strips, weight, [weight.shape[0]], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, ctx.needs_input_grad
        )
        images_grad = None if image_grad is None else _unpack(image_grad, ctx.batch, ctx.width)
        return images_grad, weight_grad, bias_grad


class StripConv2d(nn.Conv2d):
    """A 3x3 convolution (stride 1, padding 1) in bfloat16 over strips; batches that do not divide take the plain way."""

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[0] % STRIPS or input.shape[3] > LARGEST_WIDTH or self.bias is None:
            return super().forward(input)
        low = torch.bfloat16
        return _StripConvolution.apply(input.to(low).contiguous(), self.weight.to(low), self.bias.to(low))


class PointConv2d(nn.Conv2d):
    """A 1x1 convolution as one matrix product."""

    def forward(self, input: Tensor) -> Tensor:
        mixed = nn.functional.linear(input.flatten(2).transpose(1, 2), self.weight.flatten(1), self.bias)
        return mixed.transpose(1, 2).reshape(input.shape[0], -1, *input.shape[2:])


def use_fast_layers(network: nn.Module) -> nn.Module:
    """Change the class of `network`'s 3x3 and 1x1 stride-1 convolutions in place and return it. CPU bfloat16 training only."""
    for module in network.modules():
        if type(module) is nn.Conv2d and module.stride == (1, 1) and module.groups == 1:
            if module.kernel_size == (3, 3) and module.padding == (1, 1):
                module.__class__ = StripConv2d
            elif module.kernel_size == (1, 1):
                module.__class__ = PointConv2d
    return network
