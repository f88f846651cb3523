"""Families of video models: one row for what differs in data; what differs in code is the class that names the row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Family:
    """What one family of video models is made of.

    Args:
        title: how messages call it.
        part: sub-folder of the network.
        networks: diffusers' classes of the network.
        autoencoder: diffusers' class of the autoencoder; one of pictures may also be a tiny one, see `autoencoders`.
        words: how text is read: a row of `sds3d.priors.video.words.READINGS`, "clip", or None for no text.
        output: what the network predicts; None: what the scheduler's configuration says.
        noise: kind of noise levels: "betas" (variance preserving), "flow", or "edm" (log-spaced, variance exploding).
        frames, size, fps: what the published models were made for; size is (height, width) or None for the network's
            sample size.
    """

    title: str
    part: Literal["unet", "transformer"]
    networks: tuple[str, ...]
    autoencoder: str
    words: str | None
    output: Literal["flow", "v_prediction"] | None
    noise: Literal["betas", "flow", "edm"]
    frames: int
    size: tuple[int, int] | None
    fps: float

    @property
    def autoencoders(self) -> tuple[str, ...]:
        """Classes the autoencoder may have: AutoencoderTiny stands in for that of Stable Diffusion."""
        return (self.autoencoder, *(("AutoencoderTiny",) if self.autoencoder == "AutoencoderKL" else ()))

    @property
    def is_causal(self) -> bool:
        """Whether the autoencoder looks at whole clips, not at single pictures."""
        return self.autoencoder not in ("AutoencoderKL", "AutoencoderKLTemporalDecoder")


UNET3D = Family(
    title="ModelScope or Zeroscope",
    part="unet",
    networks=("UNet3DConditionModel",),
    autoencoder="AutoencoderKL",
    words="clip",
    output=None,
    noise="betas",
    frames=16,
    size=None,
    fps=8.0,
)
ANIMATEDIFF = Family(
    title="AnimateDiff",
    part="unet",
    networks=("UNetMotionModel", "UNet2DConditionModel"),
    autoencoder="AutoencoderKL",
    words="clip",
    output=None,
    noise="betas",
    frames=16,
    size=(512, 512),
    fps=8.0,
)
STACKED = Family(
    title="stacked frames",
    part="unet",
    networks=("UNet2DConditionModel",),
    autoencoder="AutoencoderKL",
    words="clip",
    output=None,
    noise="betas",
    frames=8,
    size=None,
    fps=8.0,
)
SVD = Family(
    title="Stable Video Diffusion",
    part="unet",
    networks=("UNetSpatioTemporalConditionModel",),
    autoencoder="AutoencoderKLTemporalDecoder",
    words=None,
    output="v_prediction",
    noise="edm",
    frames=14,
    size=(576, 1024),
    fps=7.0,
)
WAN = Family(
    title="Wan",
    part="transformer",
    networks=("WanTransformer3DModel",),
    autoencoder="AutoencoderKLWan",
    words="wan",
    output="flow",
    noise="flow",
    frames=81,
    size=(480, 832),
    fps=16.0,
)
COGVIDEOX = Family(
    title="CogVideoX",
    part="transformer",
    networks=("CogVideoXTransformer3DModel",),
    autoencoder="AutoencoderKLCogVideoX",
    words="cogvideox",
    output=None,
    noise="betas",
    frames=49,
    size=(480, 720),
    fps=8.0,
)
LTX = Family(
    title="LTX-Video",
    part="transformer",
    networks=("LTXVideoTransformer3DModel",),
    autoencoder="AutoencoderKLLTXVideo",
    words="ltx",
    output="flow",
    noise="flow",
    frames=161,
    size=(512, 704),
    fps=25.0,
)
FAMILIES = (UNET3D, ANIMATEDIFF, STACKED, SVD, WAN, COGVIDEOX, LTX)
"""Source: diffusers 0.42 (pipelines text_to_video_synthesis, animatediff, stable_video_diffusion, wan, cogvideo, ltx):
classes and default arguments of `__call__`; native sizes also from the model cards. STACKED is our own."""
