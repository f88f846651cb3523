"""Video UNets that hear text: ModelScope and Zeroscope (UNet3D), AnimateDiff (a motion adapter in Stable Diffusion)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.errors import AssetError
from sds3d.priors.base import Query, stack_queries
from sds3d.priors.camera_condition import encode_cameras
from sds3d.priors.folder import PriorFolder, check_network, check_words, read_scheduler
from sds3d.priors.loading import Network, freeze, load_network
from sds3d.priors.memory import set_up_denoiser
from sds3d.priors.video.base import FrameRule
from sds3d.priors.video.diffusion import DiffusersVideoPrior, Opened, Words, load_denoiser, read_words
from sds3d.priors.video.families import ANIMATEDIFF, UNET3D
from sds3d.priors.video.inflated import InflatedUNet, fits_motion_model

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
    `settings.motion_adapter`; then the noise schedule is the adapter's: that in its folder, or `MOTION_SCHEDULE`, not
    that of the Stable Diffusion. An adapter may bring a text encoder and a tokenizer in its folder, for words that the
    pictures' own encoder lacks; they take the place of those. A UNet with a camera condition keeps it.
    """

    family = ANIMATEDIFF

    def __init__(self, opened: Opened, network: Network, autoencoder: Network, words: Words | None):
        super().__init__(opened, network, autoencoder, words)
        self.has_camera = self.network.config.get("class_embed_type") == "projection"
        self._camera_size = int(self.network.config["projection_class_embeddings_input_dim"]) if self.has_camera else 0

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
        if fits_motion_model(pictures):
            whole: Any = UNetMotionModel.from_unet2d(pictures, adapter).to(opened.dtype)
        else:
            whole = InflatedUNet(pictures, adapter)
        return set_up_denoiser(freeze(whole), opened.device, opened.switches)

    @classmethod
    def reader(cls, opened: Opened) -> Words | None:
        """Return what reads texts: the adapter's own encoder where it has one."""
        own = None if opened.settings.motion_adapter is None else own_words(Path(opened.settings.motion_adapter))
        return read_words(opened if own is None else replace(opened, folder=own), cls.family)

    @classmethod
    def scheduler(cls, opened: Opened) -> dict[str, Any]:
        """Return the schedule of the pipeline, or of the adapter."""
        if opened.settings.motion_adapter is None:
            return super().scheduler(opened)
        return read_scheduler(Path(opened.settings.motion_adapter)) or dict(MOTION_SCHEDULE)

    def rule(self) -> FrameRule:
        """Return up to as many frames as the motion modules have positions."""
        return FrameRule(most=int(self.network.config["motion_max_seq_length"]))

    def output(self, z: Tensor, times: Tensor, text: Tensor, pictures: Any) -> Tensor:
        """Return the UNet's output [B, C, f, h, w]; it wants the text once a frame, frames of a clip together."""
        if isinstance(self.network, InflatedUNet):
            found: Tensor = self.network(z, times, text, None if pictures is None else pictures.to(z.dtype))
            return found
        repeated = text.repeat_interleave(z.shape[2], dim=0)
        answer: Tensor = self.network(z, times, encoder_hidden_states=repeated).sample
        return answer

    def camera_features(self, cameras: Cameras) -> Tensor | None:
        """Return [B, D] features of one camera a clip, or None if the UNet has no camera condition."""
        if not self.has_camera:
            return None
        return encode_cameras(cameras.cam_to_world, self.folder.metadata.camera_condition)

    def picture_conditions(self, queries: Sequence[Query]) -> Any:
        """Return the cameras [B, D] of all queries, zeros where one is hidden; None for UNets without."""
        if not self._camera_size:
            return None
        bare = [replace(query, control=None) for query in queries]
        return stack_queries(bare, self._camera_size).camera


def own_words(adapter: Path) -> PriorFolder | None:
    """Return the text encoder and tokenizer in the folder of a motion adapter as a folder of their own, None without."""
    return check_words(adapter) if (adapter / "text_encoder").is_dir() else None
