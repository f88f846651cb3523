"""Models that start from a picture: how the first frame of a clip reaches the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sds3d.errors import ConfigError
from sds3d.priors.base import Query

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Mean and spread of CLIP's training pictures, for folders that do not say (openai/CLIP, clip.py)."""

Seen = tuple[Tensor, ...]
"""What a network is told about B pictures: tensors [B, ...]."""


def each_picture(queries: Sequence[Query], see: Callable[[Tensor], Seen]) -> Seen:
    """Return what `see` makes of the first frames of all queries, stacked; a picture that several share is seen once."""
    known: dict[int, Seen] = {}
    for query in queries:
        if query.control is not None and id(query.control) not in known:
            known[id(query.control)] = see(query.control)
    rows = [known[id(query.control)] for query in queries]
    return tuple(torch.cat(parts) for parts in zip(*rows, strict=True))


def token_times(times: Tensor, z: Tensor, side: int, depth: int = 1, *, is_given: bool) -> Tensor:
    """Return a time for each token [B, tokens], frame by frame; 0 in the first frame if that is clean.

    Args:
        times: [B] network times of the clips.
        z: [B, C, f, h, w] latents that are cut into patches of `depth` x `side` x `side`.
    """
    a_frame = (z.shape[3] // side) * (z.shape[4] // side)
    every = times[:, None].expand(-1, a_frame * (z.shape[2] // depth))
    return torch.cat([torch.zeros_like(every[:, :a_frame]), every[:, a_frame:]], dim=1) if is_given else every


def with_first(z: Tensor, first: Tensor) -> Tensor:
    """Return latents [B, C, f, h, w] with the first latent frame replaced by `first` [B, C, 1, h, w]."""
    return torch.cat([first.to(z), z[:, :, 1:]], dim=2)


class ClipView:
    """Pictures as CLIP sees them: shorter side resized to `side`, the middle square, each channel normalised.

    Source: transformers' CLIPImageProcessor. Deviation: resized in float by PyTorch, there in 8 bits by Pillow.
    """

    def __init__(
        self,
        side: int,
        device: torch.device,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
    ):
        self.side = side
        self._mean, self._std = (torch.tensor(row, device=device).reshape(1, 3, 1, 1) for row in (mean, std))

    def __call__(self, first: Tensor) -> Tensor:
        """Return [B, 3, side, side] of pictures [B, 3, H, W] in [0, 1]."""
        height, width = first.shape[2:]
        size = [int(self.side * length / min(height, width)) for length in (height, width)]
        small = torch.nn.functional.interpolate(first.float(), size, mode="bicubic", antialias=True).clamp(0.0, 1.0)
        top, left = ((length - self.side) // 2 for length in size)
        return self.normalise(small[:, :, top : top + self.side, left : left + self.side])

    def normalise(self, picture: Tensor) -> Tensor:
        """Return (picture - mean) / std by channel, [B, 3, h, w]."""
        return (picture - self._mean) / self._std


def check_can_start(name: str, wanted: bool, able: bool) -> bool:
    """Return `wanted`. Raises: ConfigError if the model `name` cannot be given a clean first frame."""
    if wanted and not able:
        raise ConfigError(
            f"from_first_frame is on, but the network of the video prior '{name}' has one time for all frames, so no "
            "frame can be given. It is for LTX-Video and Wan 2.2 5B; set from_first_frame to false.",
            path="from_first_frame",
        )
    return wanted
