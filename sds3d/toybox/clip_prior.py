"""The toybox as a video prior without a network: what an ideal denoiser would say that knows a few clips by heart.

It stands in where no trained video model fits: on a CPU, in seconds. The clips a text means are rendered for the very
cameras that ask, and E[z0 | z_t] of their mixture is a closed form.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.errors import ConfigError
from sds3d.priors.base import Query, split_like, stack_queries
from sds3d.priors.loading import Network
from sds3d.priors.noise_levels import NoiseLevels
from sds3d.priors.video.base import FrameRule, resized
from sds3d.priors.video.codec import ClipCodec
from sds3d.priors.video.coded import CodedVideoPrior
from sds3d.priors.video.settings import VideoSettings
from sds3d.toybox.captions import Description
from sds3d.toybox.clips import ClipDescription, composite, render_clip
from sds3d.toybox.dataset import IMAGE_SIZE
from sds3d.toybox.motion_words import motion_pattern
from sds3d.toybox.motions import MOTIONS, motions_of
from sds3d.toybox.palette import COLORS, NOUNS
from sds3d.toybox.posing import Manner

BACKGROUND = 0.5
"""Grey behind its clips (sRGB); render on the same."""
SPECIMENS = 4
"""Specimens that a text means; the one most like the clip at hand counts most."""
FRAMES, MOST_FRAMES = 8, 64
STD = 0.35
"""Standard deviation of a latent around the clip it belongs to; latents have about unit variance."""
COLOURS = tuple(COLORS)
UNTOLD = (30.0, 15.0, 2.5)
"""View (azimuth and elevation in degrees, distance) where a query hides its camera."""
PLACES = 1
"""Digits that angles are rounded to, degrees, so that a view that comes again is not rendered again."""
Words = tuple[int, int, int]


class ToyClipPrior(CodedVideoPrior):
    """z0 given text and camera is a mixture of `SPECIMENS` Gaussians N(clip_k, std^2 I), each as likely as the others.

    E[z0 | z_t] is the mean of the components' posteriors, weighted by how well each explains z_t. A text that names no
    noun of the toybox is the standard normal: it means anything. A text without a colour means white and others in turn.

    Args:
        autoencoder: the bundled prior's. levels: noise levels. std: above 0. Others as `VideoPrior`.
    Limits: knows toys on mid grey, seen with the field of view of its training set, from any place; views are rounded
    to a tenth of a degree and kept. It is no generative model: it cannot show what is not in the toybox.
    """

    has_camera = True

    def __init__(
        self,
        autoencoder: Network,
        levels: NoiseLevels,
        device: torch.device | str = "cpu",
        settings: VideoSettings | None = None,
        std: float = STD,
    ) -> None:
        if std <= 0:
            raise ConfigError(f"The std of the clips is {std}, but more than 0 is needed. Use {STD}.", path="std")
        self.name, self.device, self.std = "toybox-clips", torch.device(device), std
        self.codec = ClipCodec(autoencoder, False, self.device)
        self.levels, self.num_timesteps = levels.to(self.device), len(levels)
        self.frame_rule, self.size = FrameRule(most=MOST_FRAMES), (IMAGE_SIZE, IMAGE_SIZE)
        self.frames = self.frame_rule.check((settings or VideoSettings()).frames or FRAMES, self.name)
        self._clips: dict[tuple[Words, tuple[float, ...], int], Tensor] = {}

    @classmethod
    def from_folder(
        cls,
        path: Path | str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        settings: VideoSettings | None = None,
    ) -> ToyClipPrior:
        """Return the prior; latents and noise levels are those of the bundled prior beside `path`."""
        from diffusers import AutoencoderTiny

        from sds3d.priors.loading import load_network
        from sds3d.priors.video.levels import video_levels
        from sds3d.toybox.networks import make_scheduler

        pictures = Path(path).parent / "toybox"
        autoencoder = load_network(AutoencoderTiny, pictures / "vae", torch.float32).to(device)
        return cls(autoencoder, video_levels("betas", make_scheduler().config, 1)[0], device, settings)

    def text(self, texts: Sequence[str]) -> Tensor:
        """Return [n, 1, 3]: places of noun, colour and motion in the toybox's lists, -1 for none."""
        return torch.tensor([[read(text)] for text in texts], dtype=torch.float32, device=self.device)

    def camera_features(self, cameras: Cameras) -> Tensor:
        """Return [B, 3]: azimuth and elevation in degrees and distance of each camera."""
        place = cameras.cam_to_world[:, :3, 3]
        distance = place.norm(dim=1)
        angles = torch.atan2(place[:, 1], place[:, 0]), torch.asin((place[:, 2] / distance).clamp(-1.0, 1.0))
        return torch.stack([*(torch.rad2deg(angle) for angle in angles), distance], dim=1)

    @torch.no_grad()
    def predict(self, queries: Sequence[Query]) -> list[Tensor]:
        """Return the exact noise prediction [B, C, f, h, w] of each query. It looks at values: not for graphs of a card."""
        self.check_queries(queries)
        asked = stack_queries(queries, camera_size=3)
        assert asked.camera is not None
        alpha, sigma = self.alpha_sigma(asked.t)
        words, views = asked.text[:, 0].long().tolist(), asked.camera.tolist()
        z = asked.z_t.float()
        clean = [self._clean(*row) for row in zip(z, alpha, sigma, words, views, strict=True)]
        return split_like((z - alpha * torch.stack(clean)) / sigma, queries)

    def _clean(self, z: Tensor, alpha: Tensor, sigma: Tensor, words: list[int], view: list[float]) -> Tensor:
        """Return E[z0 | z_t] of one sample [C, F, h, w]."""
        if words[0] < 0:
            return z * (alpha / (alpha**2 + sigma**2))[0]
        seen = tuple(view) if view[2] > 0 else UNTOLD
        clips = self._library((words[0], words[1], words[2]), seen, z.shape[1])
        spread = alpha**2 * self.std**2 + sigma**2
        error = z - alpha * clips  # [K, C, F, h, w]
        share = (-0.5 * (error.square() / spread).sum(dim=(1, 2, 3, 4))).softmax(dim=0)
        posterior = clips + alpha * self.std**2 / spread * error
        return torch.einsum("k,kcfhw->cfhw", share, posterior)

    def _library(self, words: Words, view: tuple[float, ...], frames: int) -> Tensor:
        """Return latents [K, C, F, h, w] of the clips that some words mean from a view, rendered if they are new."""
        place = tuple(round(number, PLACES if number is not view[-1] else 2) for number in view)
        key = (words, place, frames)
        if key not in self._clips:
            shown = [self._rendered(words, place, frames, number) for number in range(SPECIMENS)]
            self._clips[key] = self.codec.encode(resized(torch.stack(shown).to(self.device), self.size))
        return self._clips[key]

    def _rendered(self, words: Words, place: tuple[float, ...], frames: int, number: int) -> Tensor:
        """Return specimen `number` as a clip [F, H, W, 3]; it has the same shape whatever the view."""
        rng = np.random.default_rng([17, words[0], number])
        colour = COLOURS[words[1]] if words[1] >= 0 else COLOURS[(9 + 3 * number) % len(COLOURS)]
        motion = list(MOTIONS)[words[2]] if words[2] >= 0 else ""
        clip = ClipDescription(what=Description(noun=NOUNS[words[0]], color=colour), motion=motion, manner=Manner())
        return torch.from_numpy(composite(render_clip(clip, place, frames, IMAGE_SIZE, rng), BACKGROUND))


def read(text: str) -> Words:
    """Return the places of noun, colour and motion that a text names, -1 each for none; a motion must suit the noun."""
    plain = re.sub(r"[^a-z ]", " ", text.lower())
    names = [name for name in NOUNS if re.search(rf"\b{name}\b", plain)]
    colours = [name for name in COLOURS if re.search(rf"\b{name}\b", plain)]
    suits = motions_of(names[0]) if names else ()
    spaced = " ".join(plain.split())
    motions = [name for name in suits if re.search(motion_pattern(MOTIONS[name].words), spaced)]
    noun = NOUNS.index(names[0]) if names else -1
    return noun, COLOURS.index(colours[0]) if colours else -1, list(MOTIONS).index(motions[0]) if motions else -1
