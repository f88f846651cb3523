"""The judge: a small classifier that names the noun, the colour and the azimuth of a 64 px render.

It is a closed-set judge and lenient on blobs: report it beside the silhouette test (`sds3d.metrics.silhouette`), never alone.
There are two: `SHADED` looks at rendered surfaces, `DRAWN` at strokes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sds3d.config.shipped import shipped
from sds3d.errors import AssetError
from sds3d.toybox.autoencoder import composite
from sds3d.toybox.loop import Loop, LoopConfig
from sds3d.toybox.palette import ASYMMETRIC, COLORS, NOUNS

AZIMUTH_BINS = 16
WIDTHS = (32, 64, 96, 128)
SHADED, DRAWN = "judge", "drawings"
"""Names of the judges, and of their files in the folder of judges."""
NO_COLOUR = -1
"""The colour in the record of a picture that shows none: a drawing in black ink."""


def default_judge() -> Path:
    """Return the folder of the judge that ships with the project."""
    return shipped("assets", "judge")


class Judge(nn.Module):
    """Four stages of two 3x3 convolutions, mean and max pooling, three linear heads. Input [B, 3, 64, 64] in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        previous = 3
        for width in WIDTHS:
            for k in range(2):
                stride = 2 if k == 0 else 1
                layers += [nn.Conv2d(previous, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                previous = width
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.Linear(2 * previous, len(NOUNS) + len(COLORS) + AZIMUTH_BINS)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits of noun [B, 24], colour [B, 11] and azimuth bin [B, 16] (bin 0 is centred on azimuth 0)."""
        features = self.trunk(images * 2 - 1)
        pooled = torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)
        noun, color, azimuth = self.heads(pooled).split([len(NOUNS), len(COLORS), AZIMUTH_BINS], dim=1)
        return noun, color, azimuth

    @torch.no_grad()
    def verdict(self, images: Tensor) -> dict[str, Tensor]:
        """Return {"noun": [B] index, "color": [B] index, "azimuth_deg": [B]} of images [B, H, W, 3] in [0, 1].

        Images of another size are resized to 64 px. The azimuth is the circular mean of the bin probabilities.
        """
        pixels = images.permute(0, 3, 1, 2)
        if pixels.shape[-1] != 64 or pixels.shape[-2] != 64:
            pixels = nn.functional.interpolate(pixels, size=(64, 64), mode="area")
        noun, color, azimuth = self.eval()(pixels)
        angle = torch.arange(AZIMUTH_BINS) * (2 * torch.pi / AZIMUTH_BINS)
        share = azimuth.softmax(dim=1)
        mean = torch.atan2((share * angle.sin()).sum(dim=1), (share * angle.cos()).sum(dim=1))
        return {"noun": noun.argmax(dim=1), "color": color.argmax(dim=1), "azimuth_deg": torch.rad2deg(mean)}


def azimuth_error(predicted_deg: Tensor, true_deg: Tensor) -> Tensor:
    """Return the absolute angle between azimuths in degrees, in [0, 180]."""
    return ((predicted_deg - true_deg + 180.0).remainder(360.0) - 180.0).abs()


def augment(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Return images as a distilled asset might look: moved, scaled, blurred, tinted, noisy."""
    batch = images.shape[0]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (batch, *shape)).astype(np.float32))

    scale, angle = uniform(0.85, 1.25), uniform(-0.08, 0.08)
    c, s = scale * angle.cos(), scale * angle.sin()
    theta = torch.stack([c, -s, uniform(-0.1, 0.1), s, c, uniform(-0.1, 0.1)], dim=1).view(batch, 2, 3)
    grid = nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    moved = nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    blurred = nn.functional.avg_pool2d(moved, 3, stride=1, padding=1, count_include_pad=False)
    moved = torch.lerp(moved, blurred, (uniform(-0.5, 1.0, 1, 1, 1)).clamp(min=0.0))
    clouds = nn.functional.interpolate(
        uniform(-0.08, 0.08, 3, 4, 4), size=moved.shape[-2:], mode="bilinear", align_corners=False
    )
    noise = torch.from_numpy(rng.standard_normal(moved.shape).astype(np.float32)) * uniform(0.0, 0.05, 1, 1, 1)
    tint = uniform(-0.04, 0.04, 3, 1, 1) + uniform(-0.06, 0.06, 1, 1, 1)
    return (moved * uniform(0.88, 1.08, 1, 1, 1) + clouds + noise + tint).clamp(0.0, 1.0)


def train_judge(
    images: NDArray[np.uint8],
    records: NDArray[np.void],
    folder: Path,
    config: LoopConfig,
    seed: int,
    batch: int = 64,
    start: Judge | None = None,
) -> Judge:
    """Return a judge trained on renders, from scratch or from a copy of `start`; resumes from `folder`.

    Pictures whose record says `NO_COLOUR` teach nothing about colours.
    """
    torch.manual_seed(seed)
    judge = Judge().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if start is not None:
        judge.load_state_dict(start.state_dict())
    loop = Loop("judge", folder, nn.ModuleDict({"judge": judge}), config)
    loop.load()

    def loss_of(step: int, worker: int, networks: nn.ModuleDict) -> Tensor:
        rng = np.random.default_rng([seed, 11, step])
        rows = rng.integers(len(images), size=batch)
        pixels = augment(composite(images[rows], rng), rng).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            noun, color, azimuth = judge(pixels)
        words = records[rows]
        bins = np.round(words["azimuth"] / 360.0 * AZIMUTH_BINS).astype(np.int64) % AZIMUTH_BINS
        turned = torch.tensor([NOUNS[n] in ASYMMETRIC for n in words["noun"]], dtype=torch.float32)
        entropy = nn.functional.cross_entropy
        azimuth_loss = entropy(azimuth.float(), torch.from_numpy(bins), reduction="none")
        return (
            entropy(noun.float(), torch.from_numpy(words["noun"].astype(np.int64)))
            + entropy(color.float(), torch.from_numpy(words["color"].astype(np.int64)), ignore_index=NO_COLOUR)
            + (azimuth_loss * turned).mean()
        )

    loop.run(loss_of)
    judge.load_state_dict({k.removeprefix("judge."): v for k, v in loop.averages.items()})
    return judge.eval()


def evaluate_judge(judge: Judge, images: NDArray[np.uint8], records: NDArray[np.void]) -> dict[str, float]:
    """Return accuracies on renders over mid-grey: noun, color, and azimuth within 45 degrees for asymmetric nouns."""
    pixels = torch.from_numpy(images.astype(np.float32) / 255.0)
    flat = pixels[..., :3] + 0.5 * (1 - pixels[..., 3:])
    parts = [judge.verdict(chunk) for chunk in flat.split(256)]
    verdict = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
    turned = torch.tensor([NOUNS[n] in ASYMMETRIC for n in records["noun"]])
    error = azimuth_error(verdict["azimuth_deg"], torch.from_numpy(records["azimuth"].copy()))[turned]
    return {
        "noun": float((verdict["noun"].numpy() == records["noun"]).mean()),
        "color": float((verdict["color"].numpy() == records["color"])[records["color"] != NO_COLOUR].mean()),
        "azimuth_within_45": float((error <= 45).float().mean()),
        "azimuth_median_error_deg": float(error.median()),
    }


def save_judge(judge: Judge, folder: Path, report: dict[str, Any], name: str = SHADED) -> None:
    """Write `name`.safetensors (float16) and `name`.json (the scores) to `folder`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in judge.state_dict().items()}
    save_file(state, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")


def load_judge(folder: Path | None = None, name: str = SHADED) -> Judge:
    """Return the judge `name` in `folder` (default: where the judges are that ship), on CPU, in evaluation mode."""
    from safetensors.torch import load_file

    path = (folder or default_judge()) / f"{name}.safetensors"
    if not path.is_file():
        raise AssetError(
            f"The judge is missing: {path} does not exist. Restore assets/judge from the repository.", path
        )
    judge = Judge()
    judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()})
    return judge.eval()
