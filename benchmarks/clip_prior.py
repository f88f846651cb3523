"""How good is the bundled video prior? Its own clips beside rendered ones, and what wrong words and frames cost.

    python benchmarks/clip_prior.py [--prior FOLDER] [--out docs/prior/clips] [--log FOLDER/stacked.jsonl]

Writes figures.json, samples.png and, with --log, loss.png to --out, and prints the figures. Every pair of noun and motion is
drawn once from one camera, and compared with clips of other specimens rendered for that camera:
energy: root mean square of pixels around their mean over time, by that of rendered clips (1: moves as much).
noun: share of frames whose noun the judge tells (of rendered frames beside it).
motion: share of clips whose changes from frame 0 are nearest to rendered clips of their own motion, not of another that suits
the noun or of a still one (rendered clips are told with themselves left out).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
VIEW = (50.0, 15.0, 2.5)
"""Azimuth and elevation in degrees, and distance, of all clips."""
SPECIMENS = 6


def asked_for() -> list[Any]:
    """Return a description of a clip for every noun and learned motion, in colours that training shows."""
    from sds3d.toybox.captions import Description
    from sds3d.toybox.clips import ClipDescription
    from sds3d.toybox.motion_training import LEARNED
    from sds3d.toybox.motions import pairs
    from sds3d.toybox.palette import COLORS, is_held_out
    from sds3d.toybox.posing import Manner

    found = []
    for number, (noun, motion) in enumerate((n, m) for n, m in pairs() if m in LEARNED):
        colours = [c for c in COLORS if not is_held_out(noun, c)]
        what = Description(noun=noun, color=colours[3 * number % len(colours)])
        found.append(ClipDescription(what=what, motion=motion, manner=Manner()))
    return found


def rendered(clip: Any) -> Tensor:
    """Return [SPECIMENS, F, 64, 64, 3] of a description."""
    from sds3d.toybox.clips import composite, render_clip

    rngs = (np.random.default_rng([23, number]) for number in range(SPECIMENS))
    return torch.from_numpy(np.stack([composite(render_clip(clip, VIEW, 8, 64, rng), 0.5) for rng in rngs]))


def drawn(prior: Any, texts: list[str], scale: float, steps: int, seed: int) -> Tensor:
    """Return clips [B, F, 64, 64, 3] the prior draws of texts, seen from VIEW."""
    from sds3d.cameras import orbit
    from sds3d.priors.sampling import sample_latents
    from sds3d.priors.video.folded import FoldedPrior, unfold_pixels

    folded = FoldedPrior(prior, prior.frames)
    one = torch.full((1, prior.frames * prior.size[0], prior.size[1], 3), 0.5)
    noise = torch.randn(len(texts), *folded.encode(one).shape[1:], generator=torch.Generator().manual_seed(seed))
    places = [torch.full((len(texts),), value) for value in VIEW]
    latents = sample_latents(folded, noise, texts, orbit(*places, 45.0, 64, 64), scale, steps)
    return unfold_pixels(folded.decode(latents), prior.frames).clamp(0, 1)


def energy(clips: Tensor) -> Tensor:
    """Return [B], the root mean square of pixels [B, F, H, W, 3] around their mean over time."""
    return (clips - clips.mean(dim=1, keepdim=True)).square().mean(dim=(1, 2, 3, 4)).sqrt()


def changes(clips: Tensor) -> Tensor:
    """Return [B, D], luminance changes from frame 0 at a quarter of the size."""
    grey = clips.mean(dim=-1)
    return torch.nn.functional.avg_pool2d(grey - grey[:, :1], 4).flatten(1)


def told(clip: Tensor, library: dict[str, Tensor]) -> str:
    """Return the motion whose rendered changes [K, D] are nearest to those of a clip [D]."""
    distances = {motion: (rows - clip).norm(dim=1).sort().values[:2].mean() for motion, rows in library.items()}
    return min(distances, key=lambda motion: float(distances[motion]))


def library_of(clip: Any) -> dict[str, Tensor]:
    """Return rendered changes by motion, of all learned motions that suit the noun and of none."""
    from dataclasses import replace

    from sds3d.toybox.motion_training import LEARNED
    from sds3d.toybox.motions import motions_of

    motions = [*(m for m in motions_of(clip.what.noun) if m in LEARNED), ""]
    return {motion: changes(rendered(replace(clip, motion=motion))) for motion in motions}


def compare(clips: Tensor, asked: list[Any]) -> dict[str, Any]:
    """Return what is measured of drawn clips."""
    from sds3d.toybox.judge import load_judge
    from sds3d.toybox.palette import NOUNS

    judge, rows = load_judge(), []
    for clip, wanted in zip(clips, asked, strict=True):
        real, library = rendered(wanted), library_of(wanted)
        noun, own = NOUNS.index(wanted.what.noun), wanted.motion
        others = [{**library, own: library[own][torch.arange(SPECIMENS) != k]} for k in range(SPECIMENS)]
        rows.append(
            {
                "clip": f"{wanted.what.color} {wanted.what.noun} {own}",
                "energy": float(energy(clip[None]) / energy(real).median()),
                "noun": float((judge.verdict(clip)["noun"] == noun).float().mean()),
                "noun_rendered": float((judge.verdict(real.flatten(0, 1))["noun"] == noun).float().mean()),
                "told": told(changes(clip[None])[0], library),
                "motion": float(told(changes(clip[None])[0], library) == own),
                "motion_rendered": float(
                    np.mean([told(row, o) == own for row, o in zip(library[own], others, strict=True)])
                ),
                "chance": 1.0 / len(library),
            }
        )
    names = ("noun", "noun_rendered", "motion", "motion_rendered", "chance")
    means: dict[str, Any] = {name: float(np.mean([row[name] for row in rows])) for name in names}
    return means | {"energy_median": float(np.median([row["energy"] for row in rows])), "clips": rows}


def losses(folder: Path, prior: Any) -> dict[str, float]:
    """Return the v-losses of clips that were never trained on."""
    from transformers import CLIPTextModel, CLIPTokenizer

    from sds3d.toybox.clips import ClipConfig, load_clips, make_clips
    from sds3d.toybox.motion_training import LEARNED, ClipCorpus, clip_latents, clip_losses
    from sds3d.toybox.training import load_autoencoder

    wanted = ClipConfig(clips=160, frames=8, motions=LEARNED, from_rest=True, seed=300, still_share=0.0)
    work = ROOT / "outputs" / "clip-prior-benchmark"
    list(make_clips(work, wanted, workers=0))
    clips, records = load_clips(work, wanted)
    latents = clip_latents(load_autoencoder(folder), clips, 300, work / "latents.npy")
    corpus = ClipCorpus(latents, records, CLIPTokenizer.from_pretrained(folder / "tokenizer"))
    text = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()
    return clip_losses(torch.nn.ModuleDict({"unet": prior.network, "text": text}), prior.balance, corpus)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prior", type=Path, default=ROOT / "assets" / "priors" / "toybox-motion")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "prior" / "clips")
    parser.add_argument("--log", type=Path, help="training log to draw")
    parser.add_argument("--scale", type=float, default=4.0, help="classifier-free guidance of the samples")
    parser.add_argument("--steps", type=int, default=40, help="network calls for a clip")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    from sds3d.export.sheet import write_contact_sheet
    from sds3d.priors.open import open_prior
    from sds3d.toybox.clips import clip_phrase

    prior: Any = open_prior(str(options.prior))
    asked = asked_for()
    clips = drawn(prior, [clip_phrase(one) for one in asked], options.scale, options.steps, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    labels = [clip_phrase(one) if frame == 0 else "" for one in asked for frame in range(prior.frames)]
    sheet = clips.flatten(0, 1).numpy()
    write_contact_sheet(options.out / "samples.png", sheet, columns=2 * prior.frames, labels=labels)
    figures: dict[str, Any] = {"losses": losses(options.prior, prior), "samples": compare(clips, asked)}
    if options.log:
        from prior import draw_curve  # the neighbour in this folder

        names = ("loss", "val", "val_shuffled_text", "val_wrong_motion", "val_shuffled_frames")
        draw_curve([json.loads(row) for row in options.log.read_text().splitlines()], options.out / "loss.png", names)
    (options.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
