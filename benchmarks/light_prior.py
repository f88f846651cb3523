"""Does the bundled ControlNet know the light? Samples of held-out toys under two lights, and what a wrong light costs.
python benchmarks/light_prior.py [--control FOLDER] [--work FOLDER] [--count N] [--picture FILE] [--json FILE].

loss: v-prediction error on held-out pairs of noun and colour: told depth, normals and light; told the other light of the same
view; told none; without the ControlNet. follows: correlation over the pixels of a toy between the logarithm of the ratio of the
two samples (same noise, same text, two lights) and that of the two renders; 1 if the samples change as light does, 0 if not.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as launch.py does
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor

from sds3d.cameras import orbit
from sds3d.config.prior import PriorConfig
from sds3d.config.shipped import shipped
from sds3d.priors.open import open_prior
from sds3d.priors.sampling import sample_latents
from sds3d.toybox.captions import phrase
from sds3d.toybox.dataset import FOV_DEG, IMAGE_SIZE, describe
from sds3d.toybox.light_set import LightFiles
from systems.light_pictures import make_light_set
from systems.light_prior import VALIDATION

SCALE, STEPS = 3.0, 25


def drawn(prior: Any, files: LightFiles, rows: np.ndarray, control: bool) -> Tensor:
    """Return samples [N, 64, 64, 3] of rows; rows 2 k and 2 k + 1 begin with the same noise."""
    records = np.load(files.records)[rows]
    views = [torch.from_numpy(records[name].copy()) for name in ("azimuth", "elevation", "distance")]
    cameras = orbit(*views, FOV_DEG, IMAGE_SIZE, IMAGE_SIZE)
    noise = torch.randn(len(rows) // 2, 4, 16, 16, generator=torch.Generator().manual_seed(0)).repeat_interleave(2, 0)
    told = torch.from_numpy(np.load(files.conditions, mmap_mode="r")[rows]).float() / 255.0 if control else None
    texts = [phrase(describe(record)) for record in records]
    return prior.decode(sample_latents(prior, noise, texts, cameras, SCALE, STEPS, told)).clamp(0.0, 1.0)


def follows(samples: Tensor, renders: Tensor, mask: Tensor) -> Tensor:
    """Return [N / 2] correlations of log ratios of neighbouring pictures [N, S, S, 3], over `mask` [N, S, S]."""
    brightness = [(0.02 + pictures.mean(dim=-1)).log() for pictures in (samples, renders)]
    found = []
    for row in range(0, len(samples), 2):
        inside = mask[row]
        pair = torch.stack([(light[row] - light[row + 1])[inside] for light in brightness])
        found.append(torch.corrcoef(pair)[0, 1])
    return torch.stack(found).nan_to_num(0.0)


def main() -> None:
    """Print the figures and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--control", type=Path, default=shipped("assets", "priors", "toybox-light"))
    parser.add_argument("--work", type=Path, default=Path("outputs/prior/light"))
    parser.add_argument("--count", type=int, default=12, help="toys to draw")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    files = make_light_set(options.work, VALIDATION)
    prior, alone = open_prior(PriorConfig(controlnets=(str(options.control),))), open_prior(PriorConfig())
    each = VALIDATION.views * 2
    rows = np.concatenate(
        [np.arange(2) + each * k for k in np.linspace(0, VALIDATION.objects - 1, options.count).astype(int)]
    )
    rgba = torch.from_numpy(np.load(files.pictures, mmap_mode="r")[rows]).float() / 255.0
    renders = rgba[..., :3] + 0.5 * (1.0 - rgba[..., 3:])
    samples = {"told": drawn(prior, files, rows, True), "alone": drawn(alone, files, rows, False)}
    said = json.loads((options.control / "sds3d.json").read_text(encoding="utf-8"))
    figures = {name: value for name, value in said.items() if name.startswith("val")}
    found = follows(samples["told"], renders, rgba[..., 3] > 0.99)
    figures |= {"follows": float(found.mean()), "follows_median": float(found.median())}
    inside = (rgba[..., 3:] > 0.99).float()
    for name, pictures in samples.items():
        error = ((pictures - renders).square() * inside).sum() / (3.0 * inside.sum())
        figures[f"{name}_rms"] = float(error.sqrt())
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if options.picture:
        from sds3d.export.images import write_png

        columns = [renders[0::2], samples["told"][0::2], renders[1::2], samples["told"][1::2], samples["alone"][0::2]]
        cells = torch.cat([torch.cat(list(part), dim=0) for part in columns], dim=1)
        halves = torch.cat(list(cells.split(cells.shape[0] // 2)), dim=1)
        shown = halves.repeat_interleave(2, 0).repeat_interleave(2, 1)
        write_png(options.picture, (shown * 255).round().byte().numpy())


if __name__ == "__main__":
    main()
