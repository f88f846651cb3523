"""Which frozen model judges the pictures, and how it is laid out in memory. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sds3d.config.base import Config
from sds3d.config.shipped import shipped
from sds3d.priors.catalog import find_entry
from sds3d.priors.video.settings import VideoSettings
from sds3d.schedule import Schedule, bounded

BUNDLED = "toybox"
Strength = Annotated[Schedule, bounded(0, 10)]


class PriorConfig(Config):
    """A diffusion model: the bundled one, one of the catalog, a diffusers folder, or a single safetensors file."""

    kind: Literal[
        "auto",
        "latent_diffusion",
        "pixel_cascade",
        "multi_view",
        "zero123",
        "flow",
        "video",
        "motion_adapter",
        "toy_clips",
    ] = Field(default="auto", description="family of the model; auto: as its files say")
    path: str = Field(
        default=BUNDLED,
        min_length=1,
        max_length=4096,
        description="'toybox' (bundled, no download), a name of the catalog ('fetch --list'), a diffusers folder or a "
        ".safetensors file",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="number type of the network; auto: float32 on a CPU, float16 on a CUDA card"
    )
    vae_dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="number type of the autoencoder, whose backward pass may overflow in float16"
    )
    camera: bool = Field(default=True, description="tell the prior the camera, if it listens to cameras")
    controlnets: tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...] = Field(
        default=(), max_length=8, description="ControlNets beside the model: names of the catalog or folders"
    )
    control_scales: tuple[Strength, ...] = Field(
        default=(), max_length=8, description="strength of each ControlNet, a number or a schedule; empty: 1 for all"
    )
    image: str = Field(
        default="", max_length=4096, description="reference picture, for models that show other views of one (zero123)"
    )
    image_elevation_deg: float = Field(
        default=0.0, ge=-89, le=89, description="height from which the reference picture was taken, degrees"
    )
    image_azimuth_deg: float = Field(
        default=0.0, ge=-360, le=360, description="side from which the reference picture was taken; 0 is the front"
    )
    base: str = Field(
        default="",
        max_length=4096,
        description="for a single file or a motion adapter: the model whose other parts (tokenizer, configuration, ...) "
        "it uses, a name or a folder; empty: the one of the catalog",
    )
    video: VideoSettings = Field(default_factory=VideoSettings, description="how a video model is asked")
    vae: str = Field(
        default="",
        max_length=4096,
        description="another autoencoder, e.g. sdxl-vae, which works in float16: a name or a folder; empty: its own",
    )
    vae_tiling: bool = Field(default=False, description="pass large pictures through the autoencoder in tiles")
    vae_slicing: bool = Field(default=False, description="pass pictures through the autoencoder one by one")
    attention_slicing: bool = Field(default=False, description="compute attention head by head: less memory, slower")
    cpu_offload: bool = Field(
        default=False, description="keep weights in main memory and bring each layer to the card: least memory, slow"
    )
    channels_last: bool = Field(default=False, description="store convolution weights as many cards prefer them")
    compile: bool = Field(
        default=False, description="compile the network with torch.compile: minutes once, then faster"
    )

    @model_validator(mode="after")
    def _check_scales(self) -> PriorConfig:
        if self.control_scales and len(self.control_scales) != len(self.controlnets):
            raise ValueError(
                f"control_scales holds {len(self.control_scales)} strengths for {len(self.controlnets)} controlnets. "
                "Give one for each, or none."
            )
        return self

    @property
    def folder(self) -> Path:
        """The pipeline folder or file on disk, not checked; of a model of the catalog, its page's name."""
        return shipped("assets", "priors", BUNDLED) if self.path == BUNDLED else Path(self.path).expanduser()

    def absolute(self) -> PriorConfig:
        """Return the same with paths that hold from any working folder; names stay names."""
        return self.model_copy(
            update={
                "path": _absolute(self.path),
                "controlnets": tuple(_absolute(path) for path in self.controlnets),
                "image": str(Path(self.image).expanduser().resolve()) if self.image else "",
                "base": _absolute(self.base) if self.base else "",
                "vae": _absolute(self.vae) if self.vae else "",
            }
        )


def _absolute(text: str) -> str:
    """Return a path made absolute; a name of the catalog or a hub id it knows stays, unless a folder has that path."""
    path = Path(text).expanduser()
    is_name = find_entry(text) is not None and not ("/" in text and path.exists())
    return text if is_name else str(path.resolve())
