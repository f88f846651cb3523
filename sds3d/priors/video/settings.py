"""What a user may set when a video model is opened. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class VideoSettings(BaseModel):
    """How a video model is asked; None everywhere means the model's own."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    frames: int | None = Field(default=None, ge=2, le=1024, description="frames of a clip; causal models take 4 k + 1")
    height: int | None = Field(default=None, ge=8, le=4096, description="height in pixels at which the model works")
    width: int | None = Field(default=None, ge=8, le=4096, description="width in pixels at which the model works")
    fps: float | None = Field(
        default=None, gt=0, le=120, description="frames a second that models with a frame rate are told (SVD, LTX)"
    )
    motion_bucket: int = Field(default=127, ge=0, le=255, description="how much SVD is told that moves")
    noise_augmentation: float = Field(default=0.02, ge=0, le=1, description="noise on SVD's first frame")
    from_first_frame: bool = Field(
        default=False,
        description="animate the first frame of the clip, which is then given and learns nothing (LTX, Wan 2.2 5B)",
    )
    experts: Literal["both", "high", "low"] = Field(
        default="both",
        description="networks of a two-expert Wan 2.2 that are loaded; high or low halves memory and time, but then "
        "the time window must stay on that side of the boundary",
    )
    motion_adapter: Path | None = Field(
        default=None, description="folder of an AnimateDiff motion adapter, for a Stable Diffusion 1.5 folder"
    )
    chunk: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="frames encoded together with a graph (causal encoders: any number above 0 = one clip); 0 = all",
    )
    one_by_one: bool = Field(default=False, description="ask the network for one text at a time: less memory")

    @model_validator(mode="after")
    def _check_size(self) -> VideoSettings:
        if (self.height is None) != (self.width is None):
            raise ValueError(f"height is {self.height} and width is {self.width}: give both or neither")
        return self

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width), or None."""
        return None if self.height is None or self.width is None else (self.height, self.width)
