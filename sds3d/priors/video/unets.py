"""Video UNets that hear text: ModelScope and Zeroscope (UNet3D), AnimateDiff (a motion adapter in Stable Diffusion)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from sds3d.errors import AssetError
from sds3d.priors.folder import check_network
from sds3d.priors.loading import Network, freeze, load_network
from sds3d.priors.memory import set_up_denoiser
from sds3d.priors.video.base import FrameRule
from sds3d.priors.video.diffusion import DiffusersVideoPrior, Opened, load_denoiser
from sds3d.priors.video.families import ANIMATEDIFF, UNET3D

MOTION_SCHEDULE = {
    "_class_name": "DDIMScheduler",
    "beta_schedule": "linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
}
"""Noise schedule the motion adapters were trained with; it replaces that of Stable Diffusion (scaled_linear).
Source: guoyww/AnimateDiff, inference configuration; diffusers' AnimateDiff documentation."""


class UNet3DPrior(DiffusersVideoPrior):
    """ModelScope text-to-video and Zeroscope. Source: arXiv 2308.06571; diffusers' TextToVideoSDPipeline."""

    family = UNET3D

    def output(self, z: Tensor, times: Tensor, text: Tensor, pictures: Any) -> Tensor:
        """Return the UNet's output [B, C, f, h, w]."""
        answer: Tensor = self.network(z, times, encoder_hidden_states=text).sample
        return answer


class AnimateDiffPrior(DiffusersVideoPrior):
    """AnimateDiff: Stable Diffusion 1.5, or a look of yours, with a motion adapter. Source: arXiv 2307.04725.

    Two kinds of folder: a saved AnimateDiff pipeline, or one of Stable Diffusion 1.5 together with
    `settings.motion_adapter`; then the noise schedule is the adapter's `MOTION_SCHEDULE`, not that of the folder.
    """

    family = ANIMATEDIFF

    @classmethod
    def denoiser(cls, opened: Opened) -> Network:
        """Return the UNet with motion modules, put together if the adapter is a folder of its own."""
        is_whole = opened.folder.configs["unet"]["_class_name"] == "UNetMotionModel"
        if is_whole and opened.settings.motion_adapter is None:
            return load_denoiser(opened, "unet", "UNetMotionModel")
        if is_whole or opened.settings.motion_adapter is None:
            has = "already has motion modules" if is_whole else "has no motion modules"
            raise AssetError(
                f"The UNet of '{opened.folder.path}' {has}, and motion_adapter is {opened.settings.motion_adapter}. "
                "Give a Stable Diffusion 1.5 folder and a motion adapter, or a saved AnimateDiff pipeline alone.",
                opened.folder.path,
            )
        from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel

        path = Path(opened.settings.motion_adapter)
        adapter = load_network(MotionAdapter, path, opened.dtype, check_network(path, "MotionAdapter")[1])
        pictures = load_network(
            UNet2DConditionModel, opened.folder.path / "unet", opened.dtype, opened.folder.variants["unet"]
        )
        check_fits(pictures, adapter, path)
        whole: Any = UNetMotionModel.from_unet2d(pictures, adapter).to(opened.dtype)
        return set_up_denoiser(freeze(whole), opened.device, opened.switches)

    @classmethod
    def scheduler(cls, opened: Opened) -> dict[str, Any]:
        """Return the schedule of the pipeline, or the adapter's."""
        return super().scheduler(opened) if opened.settings.motion_adapter is None else dict(MOTION_SCHEDULE)

    def rule(self) -> FrameRule:
        """Return up to as many frames as the motion modules have positions."""
        return FrameRule(most=int(self.network.config["motion_max_seq_length"]))

    def output(self, z: Tensor, times: Tensor, text: Tensor, pictures: Any) -> Tensor:
        """Return the UNet's output [B, C, f, h, w]; it wants the text once a frame, frames of a clip together."""
        repeated = text.repeat_interleave(z.shape[2], dim=0)
        answer: Tensor = self.network(z, times, encoder_hidden_states=repeated).sample
        return answer


def check_fits(pictures: Any, adapter: Any, path: Path) -> None:
    """Raise AssetError if the motion adapter in the folder `path` is not for this UNet of pictures."""
    wide, adapted = ([*map(int, network.config["block_out_channels"])] for network in (pictures, adapter))
    deep = pictures.config["layers_per_block"], adapter.config["motion_layers_per_block"]
    if wide != adapted or deep[0] != deep[1] or pictures.config.get("class_embed_type") is not None:
        raise AssetError(
            f"The motion adapter '{path}' is for blocks of widths {adapted} and {deep[1]} layers, but the UNet has widths "
            f"{wide}, {deep[0]} layers a block and class embedding "
            f"'{pictures.config.get('class_embed_type')}' (none is allowed). Give the adapter that was trained with this "
            "UNet, for Stable Diffusion 1.5 'animatediff'.",
            path,
        )
