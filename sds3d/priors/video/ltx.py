"""LTX-Video: a flow transformer on packed tokens that is told size and frame rate."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sds3d.priors.packing import unpack
from sds3d.priors.video.diffusion import DiffusersVideoPrior
from sds3d.priors.video.families import LTX
from sds3d.priors.video.first_frame import token_times
from sds3d.priors.video.words import T5Words


class LTXPrior(DiffusersVideoPrior):
    """LTX-Video, from text or with `settings.from_first_frame` from a picture as well.

    Source: arXiv 2501.00103; diffusers' LTXPipeline and LTXImageToVideoPipeline.
    """

    family = LTX

    def patch(self) -> int:
        """Return the side of the transformer's patches."""
        return int(self.network.config["patch_size"])

    def has_token_times(self) -> bool:
        """Return that each token may have a time of its own."""
        return True

    def output(self, z: Tensor, times: Tensor, text: Tensor, pictures: Any) -> Tensor:
        """Return the velocity [B, C, f, h, w]; the network time is 1000 sigma."""
        assert isinstance(self.words, T5Words)  # the family's row says so
        tokens, mask = unpack(text, self.words.mask_size)
        side, depth = self.patch(), int(self.network.config["patch_size_t"])
        size = (z.shape[2] // depth, z.shape[3] // side, z.shape[4] // side)
        pixels = self.codec.space_stride
        times = token_times(times, z, side, depth, is_given=True) if self.starts_given else times
        answer = self.network(
            hidden_states=pack_latents(z, side, depth),
            encoder_hidden_states=tokens,
            timestep=times,
            encoder_attention_mask=mask,
            num_frames=size[0],
            height=size[1],
            width=size[2],
            rope_interpolation_scale=(self.codec.time_stride / self.fps, pixels, pixels),
        ).sample
        return unpack_latents(answer, size, side, depth)


def pack_latents(z: Tensor, side: int, depth: int) -> Tensor:
    """Return tokens [B, f' h' w', C depth side side] of latents [B, C, f, h, w], one a patch, channels slowest."""
    patches = (
        z.unflatten(4, (-1, side)).unflatten(3, (-1, side)).unflatten(2, (-1, depth))
    )  # [B, C, f', d, h', s, w', s]
    return patches.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)


def unpack_latents(tokens: Tensor, size: tuple[int, int, int], side: int, depth: int) -> Tensor:
    """Return latents [B, C, f, h, w] of tokens; `size` is (f', h', w') in patches. Undoes `pack_latents`."""
    patches = tokens.unflatten(2, (-1, depth, side, side)).unflatten(1, size)  # [B, f', h', w', C, d, s, s]
    return patches.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(2, 3)
