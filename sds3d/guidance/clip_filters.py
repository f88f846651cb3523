"""Filters over the frames of a clip's gradient: amplify motion, calm jitter, pin the first frame, equal shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def amplify_motion(gradient: Tensor, factor: float) -> Tensor:
    """Return mean + factor (g - mean), the mean over frames: what differs between frames counts `factor` times.

    gradient: [B, C, f, h, w]. factor: 1 changes nothing, above 1 makes things move more.
    Source: Align Your Gaussians (arXiv 2312.13763), motion amplification. Deviation: applied to the weighted gradient,
    of which the guided residual is a multiple, so that it serves every rule.
    """
    mean = gradient.mean(dim=2, keepdim=True)
    return mean + factor * (gradient - mean)


def smooth_frames(gradient: Tensor, width: int) -> Tensor:
    """Return the mean over `width` (odd) neighbouring frames; at the ends over those that exist. [B, C, f, h, w]."""
    import torch

    if width == 1:
        return gradient
    frame = torch.arange(gradient.shape[2], device=gradient.device)
    near = ((frame[:, None] - frame).abs() <= width // 2).to(gradient)
    smoothed: Tensor = torch.einsum("gf,bcfhw->bcghw", near / near.sum(dim=1, keepdim=True), gradient)
    return smoothed


def pin_first(gradient: Tensor) -> Tensor:
    """Return the gradient with 0 in the first latent frame [B, C, f, h, w]: that frame teaches nothing."""
    import torch

    return torch.cat([torch.zeros_like(gradient[:, :, :1]), gradient[:, :, 1:]], dim=2)


def relative_to_first(gradient: Tensor) -> Tensor:
    """Return the gradient minus that of the first latent frame [B, C, f, h, w].

    What a prior would change in a rest pose that is given is no motion; it dislikes the same in every frame. Ours.
    """
    return gradient - gradient[:, :, :1]


def frame_rms(pixels: Tensor) -> Tensor:
    """Return [B, F], the root mean square of each frame of a gradient in pixels [B, F, H, W, 3]."""
    return pixels.square().mean(dim=(2, 3, 4)).sqrt()


def equalise_frames(pixels: Tensor) -> Tensor:
    """Return the gradient in pixels [B, F, H, W, 3] with every frame scaled to its clip's root mean square.

    A frame without gradient keeps none. Remedy for causal autoencoders, whose first frame gets most of the gradient.
    """
    size = frame_rms(pixels)
    wanted = size.square().mean(dim=1, keepdim=True).sqrt()
    return pixels * (wanted / size.clamp(min=1e-30))[:, :, None, None, None]
