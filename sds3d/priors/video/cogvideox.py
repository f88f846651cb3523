"""CogVideoX: a diffusion transformer with v-prediction that ends in pure noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sds3d.priors.video.base import FrameRule
from sds3d.priors.video.diffusion import DiffusersVideoPrior
from sds3d.priors.video.families import COGVIDEOX


class CogVideoXPrior(DiffusersVideoPrior):
    """CogVideoX 2b, 5b and 1.5 text-to-video. Source: arXiv 2408.06072; diffusers' CogVideoXPipeline.

    Where the network joins several latent frames to a token (1.5), missing ones are copies of the first frame in
    front of the clip, and their prediction is dropped. Deviation: the pipeline draws noise for them.
    """

    family = COGVIDEOX

    def rule(self) -> FrameRule:
        """Return 8 k + 1: with other multiples of 4 the autoencoder decodes more frames than it has encoded."""
        stride = self.codec.time_stride
        return FrameRule(stride=stride, first=1, step=2 * stride)

    def native_size(self) -> tuple[int, int]:
        """Return the size in the network's configuration."""
        config, stride = self.network.config, self.codec.space_stride
        return int(config["sample_height"]) * stride, int(config["sample_width"]) * stride

    def native_frames(self) -> int:
        """Return the number in the network's configuration."""
        return int(self.network.config["sample_frames"])

    def patch(self) -> int:
        """Return the side of the transformer's patches."""
        return int(self.network.config["patch_size"])

    def output(self, z: Tensor, times: Tensor, text: Tensor, pictures: Any) -> Tensor:
        """Return the v-prediction [B, C, f, h, w]; the network's own axes are [B, f, C, h, w]."""
        missing = -z.shape[2] % (self.network.config["patch_size_t"] or 1)
        padded = torch.cat([z[:, :, :1].expand(-1, -1, missing, -1, -1), z], dim=2) if missing else z
        answer: Tensor = self.network(
            hidden_states=padded.transpose(1, 2),
            encoder_hidden_states=text,
            timestep=times,
            image_rotary_emb=self._rotary(padded),
        ).sample
        return answer.transpose(1, 2)[:, :, missing:]

    def _rotary(self, z: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the rotary position embeddings of a clip's tokens, for networks that use them (5b, 1.5)."""
        config = self.network.config
        if not config["use_rotary_positional_embeddings"]:
            return None
        from diffusers.models.embeddings import get_3d_rotary_pos_embed
        from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

        side, depth = self.patch(), config["patch_size_t"]
        grid = (z.shape[3] // side, z.shape[4] // side)
        base = (config["sample_height"] // side, config["sample_width"] // side)
        if depth is None:
            where = {"crops_coords": get_resize_crop_region_for_grid(grid, base[1], base[0])}
        else:
            where = {"crops_coords": None, "grid_type": "slice", "max_size": base}
        cos, sin = get_3d_rotary_pos_embed(
            embed_dim=config["attention_head_dim"],
            grid_size=grid,
            temporal_size=-(-z.shape[2] // (depth or 1)),
            device=z.device,
            **where,
        )
        return cos, sin
