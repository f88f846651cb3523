"""A generator small enough to be trained from nothing on a CPU: 0.1 million parameters for triplanes of 32 x 32."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sds3d.config.generator import NetworkConfig
from sds3d.generators.base import LatentGenerator, Planes
from sds3d.generators.heads import FieldHeads
from sds3d.priors.noise_levels import NoiseLevels
from sds3d.priors.parametrisation import Parametrisation, epsilon_to_clean, output_to_epsilon

LATENT_CHANNELS = 4
SLOTS = 6
"""Latents of an object: geometry xy, xz, yz, then texture xy, xz, yz."""


def clean_from(output: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor, kind: Parametrisation) -> Tensor:
    """Return the clean latent that a network's `output` means, without dividing by alpha where its kind allows that."""
    if kind == "sample":
        return output
    if kind == "v_prediction":
        return alpha * z - sigma * output
    return epsilon_to_clean(output_to_epsilon(output, z, alpha, sigma, kind), z, alpha, sigma)


def waves(t: float, width: int, like: Tensor) -> Tensor:
    """Return [width] sines and cosines of a timestep, the usual embedding of time."""
    half = width // 2
    rates = torch.exp(-math.log(10_000.0) * torch.arange(half, device=like.device, dtype=like.dtype) / half)
    return torch.cat([torch.sin(t * rates), torch.cos(t * rates)])


class TextPooling(nn.Module):
    """Embeddings [B, rows, dim] -> [B, width]: a few learnt questions attend to the rows, a small network mixes them."""

    def __init__(self, text_size: int, width: int, questions: int = 4) -> None:
        super().__init__()
        self.keys = nn.Linear(text_size, questions)
        self.network = nn.Sequential(nn.Linear(questions * text_size, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, text: Tensor) -> Tensor:
        """Return [B, width]."""
        share = self.keys(text.float()).softmax(dim=1)  # [B, rows, questions]
        pooled = torch.einsum("brq,brd->bqd", share, text.float())
        return self.network(pooled.flatten(1))  # type: ignore[no-any-return]


class TinyBlock(nn.Module):
    """A residual block of two convolutions, told prompt, time and plane."""

    def __init__(self, inputs: int, outputs: int, told: int) -> None:
        super().__init__()
        self.first_norm, self.second_norm = nn.GroupNorm(8, inputs), nn.GroupNorm(8, outputs)
        self.first, self.second = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.told = nn.Linear(told, 2 * outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """Return [N, outputs, h, w]; told: [N, told]."""
        hidden = self.first(nn.functional.silu(self.first_norm(x)))
        scale, shift = self.told(told)[:, :, None, None].chunk(2, dim=1)
        hidden = self.second(nn.functional.silu(self.second_norm(hidden) * (1.0 + scale) + shift))
        return self.skip(x) + hidden  # type: ignore[no-any-return]


class PlaneAttention(nn.Module):
    """Self-attention over all texels of all planes of an object (or of each plane by itself, `joint` False)."""

    def __init__(self, width: int, slots: int, joint: bool, heads: int = 4) -> None:
        super().__init__()
        self.slots, self.heads, self.joint = slots, heads, joint
        self.norm = nn.GroupNorm(8, width)
        self.queries, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B * slots, C, h, w]."""
        count, channels, height, width = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # [B * slots, h w, C]
        together = self.slots if self.joint else 1
        tokens = tokens.reshape(count // together, together * height * width, channels)
        parts = self.queries(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*parts.unbind())
        mixed = self.out(mixed.transpose(1, 2).flatten(2))
        return x + mixed.reshape(count, height * width, channels).transpose(1, 2).view_as(x)


class TinyTriplaneGenerator(LatentGenerator):
    """Two levels of residual blocks with one joint attention, and a decoder of three convolutions. All of it is trained.

    Source: the tiny stand-in for TriplaneTurbo's adapted Stable Diffusion; sizes are ours.

    Args:
        config: sizes; `prediction` "auto" is v, which does not divide by alpha.
        levels: noise levels, those of the model that teaches.
        text_size: width of the prompt embeddings.
        generator: CPU generator of the first values.
    """

    def __init__(self, config: NetworkConfig, levels: NoiseLevels, text_size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.config, self.levels, self.slots = config, levels, SLOTS
        self.latent_shape = (LATENT_CHANNELS, config.latent_size, config.latent_size)
        self.prediction: Parametrisation = "v_prediction" if config.prediction == "auto" else config.prediction
        width, told = config.width, 2 * config.width
        with torch.random.fork_rng(devices=[]):  # layers draw from the global state: give it ours, then give it back
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            self.text = TextPooling(text_size, told)
            self.time = nn.Sequential(nn.Linear(width, told), nn.SiLU(), nn.Linear(told, told))
            self.plane = nn.Parameter(torch.randn(SLOTS, told) * 0.5)
            self.entry = nn.Conv2d(LATENT_CHANNELS, width, 3, padding=1)
            self.down = TinyBlock(width, width, told)
            self.middle = TinyBlock(width, width, told)
            self.attention = PlaneAttention(width, SLOTS, config.joint)
            self.up = TinyBlock(2 * width, width, told)
            self.exit = nn.Conv2d(width, LATENT_CHANNELS, 3, padding=1)
            channels = config.channels * (2 if config.split else 1)
            self.decoder = _decoder(width, channels, config.upsamplings)
        self.heads = FieldHeads(config.channels, config.hidden, generator, last_gain=0.3)

    def predict_clean(self, z: Tensor, t: int, text: Tensor) -> Tensor:
        """Return the clean latents; see `LatentGenerator.predict_clean`."""
        objects = self.objects_of(z)
        told = self.text(text) + self.time(waves(float(t), self.config.width, z))
        told = (told[:, None] + self.plane).reshape(objects * SLOTS, -1)
        first = self.down(self.entry(z), told)
        middle = self.attention(self.middle(nn.functional.avg_pool2d(first, 2), told))
        joined = torch.cat([first, nn.functional.interpolate(middle, scale_factor=2.0)], dim=1)
        output = self.exit(nn.functional.silu(self.up(joined, told)))
        return clean_from(output, z, *self.alpha_sigma(t), self.prediction)

    def decode(self, latents: Tensor) -> Planes:
        """Return the triplanes of latents [B * 6, 4, h, w]."""
        return planes_of(self.decoder(latents), self.heads, self.config)


def planes_of(features: Tensor, heads: nn.Module, config: NetworkConfig) -> Planes:
    """Return triplanes of decoded features [B * 6, C or 2 C, H, W].

    With `config.split` geometry planes read the first half of the channels and texture planes the last, as published.
    """
    six = features.unflatten(0, (-1, SLOTS))
    channels = config.channels
    geometry, texture = six[:, :3, :channels], six[:, 3:, -channels:]
    return Planes(geometry, texture, heads, config.radius, config.start_radius, config.reach)


def _decoder(width: int, channels: int, upsamplings: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(LATENT_CHANNELS, width, 3, padding=1), nn.SiLU()]
    for number in range(upsamplings):
        layers += [
            nn.Upsample(scale_factor=2.0),
            nn.Conv2d(width, width if number < upsamplings - 1 else channels, 3, padding=1),
        ]
        layers += [nn.SiLU()] if number < upsamplings - 1 else []
    return nn.Sequential(*layers) if upsamplings else nn.Sequential(*layers, nn.Conv2d(width, channels, 3, padding=1))
