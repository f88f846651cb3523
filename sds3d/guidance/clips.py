"""Guidance over clips: any method of the table, with a video prior. A clip is one sample; the guide is not copied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sds3d.errors import ConfigError, ShapeError
from sds3d.guidance import clip_filters
from sds3d.schedule import Schedule, bounded

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sds3d.cameras import Cameras
    from sds3d.guidance.config import GuidanceConfig
    from sds3d.guidance.guide import Logs
    from sds3d.priors.video.base import VideoPrior
    from sds3d.prompts import Prompt


class ClipConfig(BaseModel):
    """What guidance of clips has beyond guidance of pictures: filters over frames, and cures of causal autoencoders."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    amplify: Annotated[Schedule, bounded(low=0)] = Field(
        default=Schedule.constant(1.0), description="factor on what differs between frames; above 1 things move more"
    )
    smooth: int = Field(default=1, ge=1, le=15, description="latent frames averaged against jitter; odd, 1 = none")
    pin_first: bool = Field(
        default=False, description="whether the first latent frame gets no gradient (frame 0 is a given rest pose)"
    )
    relative: bool = Field(
        default=False,
        description="whether the first latent frame's gradient is taken from all: what the prior dislikes about the rest "
        "pose itself then moves nothing (frame 0 is a given rest pose)",
    )
    still_start: bool = Field(
        default=False,
        description="show a causal prior some still copies of frame 0 first, so that frame 0 counts like the others",
    )
    equal_frames: bool = Field(default=False, description="scale every frame's pixel gradient to the same size")
    reverse: float = Field(
        default=0.0, ge=0, le=1, description="share of steps that show the clip backwards (prompts that allow it)"
    )

    @field_validator("smooth")
    @classmethod
    def _odd(cls, smooth: int) -> int:
        if smooth % 2 == 0:
            raise ValueError(f"smooth is {smooth}, but needs an odd number of frames, for example 3")
        return smooth

    @model_validator(mode="after")
    def _check_pin(self) -> ClipConfig:
        if (self.pin_first or self.relative) and self.reverse > 0:
            name = "pin_first" if self.pin_first else "relative"
            raise ValueError(f"{name} holds frame 0 still, but reverse makes it the last one. Use one of the two.")
        return self


class ClipGuidance:
    """A distillation method applied to a video prior; owns no renderer, no optimiser and no random state.

    Clips go through `Guidance` as tall pictures, so methods, weights, times and filters mean what they mean there.
    Each clip has one timestep, fresh noise in every latent frame, and the text that holds from its camera.
    With `reduction` "mean" the gradient is divided by clips and by latent frames, so that a weight tuned on pictures
    keeps its meaning whatever the length of the clip.

    Args:
        prior: the frozen video model.
        config: the method and its settings; `config.t_min`, `t_max` and `guidance_scale` of pictures suit few video
            models, see `sds3d.priors.video.advice`.
        total_steps: length of the run, for schedules with the clock "fraction".
        clips: filters over frames.
        frames: frames of a clip; None takes `prior.frames`.
    Raises: ConfigError if the method needs a trained network, which video priors do not offer, or if the model does
        not take so many frames.
    """

    def __init__(
        self,
        prior: VideoPrior,
        config: GuidanceConfig,
        total_steps: int,
        clips: ClipConfig | None = None,
        frames: int | None = None,
    ):
        from sds3d.guidance.guide import Guidance
        from sds3d.guidance.methods import METHODS
        from sds3d.priors.video.folded import FoldedPrior

        if METHODS[config.method].trains:
            raise ConfigError(
                f"Method '{config.method}' trains a copy of its prior, which video priors do not offer. Use one "
                "that does not, for example guidance.method=sds.",
                path="guidance.method",
            )
        self.prior, self.clips, self.total_steps = prior, clips or ClipConfig(), total_steps
        self.frames = prior.frame_rule.check(frames or prior.frames, prior.name)
        self.still = self._still_frames()
        self.folded = FoldedPrior(prior, self.frames + self.still)
        self.guide = Guidance(self.folded, config, total_steps)

    def __call__(
        self,
        rgb: Tensor,
        prompt: Prompt,
        cameras: Cameras,
        step: int,
        generator: torch.Generator,
        source: Tensor | None = None,
    ) -> tuple[Tensor, Logs]:
        """Return a loss whose gradient in `rgb` is the distillation gradient, and numbers to log.

        Arguments as for `image_gradient`; `rgb` may carry a graph.
        """
        gradient, logs = self.image_gradient(rgb, prompt, cameras, step, generator, source)
        return (rgb * gradient).sum(), logs

    def image_gradient(
        self,
        rgb: Tensor,
        prompt: Prompt,
        cameras: Cameras,
        step: int,
        generator: torch.Generator,
        source: Tensor | None = None,
    ) -> tuple[Tensor, Logs]:
        """Return the distillation gradient in pixels [B, F, H, W, 3], to be descended, and 0-dim numbers to log.

        `rgb` needs no graph: with deferred back-propagation frames are rendered again one by one for their gradient.

        Args:
            rgb: [B, F, H, W, 3] clips in [0, 1].
            cameras: the B cameras of the clips, or B F cameras, frames of a clip together: the first of each is used.
            step: number of the step, from 0.
            generator: CPU generator.
            source: [B, F, H, W, 3] clips to be edited, for methods that edit.
        Raises: ShapeError or ConfigError if clip, cameras or prompt do not fit the prior.
        """
        import torch

        from sds3d.priors.video.folded import fold_pixels, unfold_pixels

        self._check(rgb, prompt)
        backwards = self._is_backwards(generator)
        shown = self._shown(rgb.detach(), backwards)
        self.folded.first_frames = shown[:, 0].permute(0, 3, 1, 2).contiguous()
        self.folded.gradient_filter = lambda gradient: self._filter(gradient, step)
        tall = fold_pixels(shown).requires_grad_()
        edited = None if source is None else fold_pixels(self._shown(source, backwards))
        loss, logs = self.guide(tall, prompt, self._cameras(cameras, len(rgb)), step, generator, edited)
        (pixels,) = torch.autograd.grad(loss, tall)
        gradient = unfold_pixels(pixels, self.frames + self.still)[:, self.still :]
        gradient = gradient.flip(1) if backwards else gradient
        if self.guide.config.reduction == "mean":
            gradient = gradient / self.prior.latent_frames(self.frames)
        size = clip_filters.frame_rms(gradient).mean(dim=0)
        logs |= {"frame_rms_first": size[0], "frame_rms_least": size.amin(), "frame_rms_most": size.amax()}
        return (clip_filters.equalise_frames(gradient) if self.clips.equal_frames else gradient), logs

    def _filter(self, gradient: Tensor, step: int) -> Tensor:
        """Return the gradient in latents [B, C, f, h, w] after the filters over frames."""
        still = int(self.still > 0)  # one latent frame of copies
        kept = gradient[:, :, still:]
        factor = self.clips.amplify.at(step, self.total_steps)
        if factor != 1.0:
            kept = clip_filters.amplify_motion(kept, factor)
        kept = clip_filters.smooth_frames(kept, self.clips.smooth)
        if self.clips.relative:
            kept = clip_filters.relative_to_first(kept)
        if self.clips.pin_first:
            kept = clip_filters.pin_first(kept)
        if not still:
            return kept
        import torch

        return torch.cat([torch.zeros_like(gradient[:, :, :1]), kept], dim=2)

    def _shown(self, clip: Tensor, backwards: bool) -> Tensor:
        """Return the frames the prior is shown: perhaps reversed, perhaps with copies of frame 0 in front."""
        import torch

        clip = clip.flip(1) if backwards else clip
        return torch.cat([clip[:, :1].expand(-1, self.still, -1, -1, -1), clip], dim=1) if self.still else clip

    def _is_backwards(self, generator: torch.Generator) -> bool:
        import torch

        if self.clips.reverse == 0.0:
            return False
        return bool(torch.rand((), generator=generator) < self.clips.reverse)  # on the CPU: nothing waits

    def _still_frames(self) -> int:
        rule = self.prior.frame_rule
        if not self.clips.still_start:
            return 0
        if not rule.first:
            raise ConfigError(
                f"still_start is on, but the autoencoder of the video prior '{self.prior.name}' treats all frames "
                "alike. It is for causal autoencoders (Wan, CogVideoX, LTX); set still_start to false."
            )
        return rule.stride

    def _cameras(self, cameras: Cameras, clips: int) -> Cameras:
        """Return one camera a clip."""
        if len(cameras) == clips:
            return cameras
        if len(cameras) != clips * self.frames:
            raise ShapeError("cameras", f"[{clips}] or [{clips * self.frames}] (clips x frames)", (len(cameras),))
        return cameras[:: self.frames]

    def _check(self, rgb: Tensor, prompt: Prompt) -> None:
        self.prior.check_clip(rgb)
        if rgb.shape[1] != self.frames:
            raise ShapeError("the clip", f"[B, {self.frames}, H, W, 3]", tuple(rgb.shape))
        if not self.prior.hears_text and prompt.negative.strip():
            raise ConfigError(
                f"The video prior '{self.prior.name}' animates a picture and hears no text, so prompt.negative = "
                f"'{prompt.negative}' would be ignored. Set prompt.negative to ''.",
                path="prompt.negative",
            )
        if max(self.guide.config.image_weight.values) > 0 and tuple(rgb.shape[2:4]) != tuple(self.prior.size):
            height, width = self.prior.size
            raise ConfigError(
                f"guidance.image_weight compares pixels, but frames are rendered at {rgb.shape[2]} x {rgb.shape[3]} "
                f"and the video prior works at {height} x {width}. Render at that size, or set it to 0.",
                path="guidance.image_weight",
            )
