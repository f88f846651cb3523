"""What benchmarks/guidance.py makes of its runs: a row a method, the table, and the contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from sds3d.config import load_recipe
from sds3d.toybox.captions import article
from sds3d.toybox.palette import ASYMMETRIC

START = "start"
"""No method at all: random initialisation."""
VIEWS, SIZE = 8, 64


def views_of(path: str) -> Any:
    """Return eight views [8, 64, 64, 3] of a finished run on grey, and how much of each pixel is object."""
    from sds3d.cameras import turntable
    from sds3d.run import open_run
    from systems.pictures import draw
    from systems.text_to_3d import trained

    run = open_run(Path(path))
    renderer, _ = trained(run.read_recipe(), run)
    return draw(renderer, turntable(VIEWS, SIZE), 0.5)


def samples_of(noun: str, colour: str, seed: int) -> Any:
    """Return the prior's own eight views [8, 64, 64, 3] of a prompt, from one noise."""
    import torch

    from sds3d.cameras import turntable
    from sds3d.priors.latent_diffusion import LatentDiffusionPrior
    from sds3d.priors.sampling import sample_latents

    recipe = load_recipe("quickstart")
    prior = LatentDiffusionPrior.from_folder(recipe.prior.folder)
    shape = prior.encode(torch.full((1, SIZE, SIZE, 3), 0.5)).shape[1:]
    noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed)).expand(VIEWS, -1, -1, -1)
    latents = sample_latents(prior, noise, f"{article(colour)} {colour} {noun}", turntable(VIEWS, SIZE))
    with torch.no_grad():
        return prior.decode(latents).clamp(0.0, 1.0)


def saturation(images: Any) -> float:
    """Return the mean saturation (largest minus smallest channel) of the pixels that differ from the corners' colour."""
    corner = images[:, :1, :1]
    is_object = (images - corner).abs().amax(dim=-1) > 0.1
    spread = images.amax(dim=-1) - images.amin(dim=-1)
    return float(spread[is_object].mean()) if is_object.any() else 0.0


def difference(pictures: Sequence[Any]) -> float | None:
    """Return the mean root-mean-square difference of all pairs, None for a single one."""
    pairs = [(a, b) for i, a in enumerate(pictures) for b in pictures[:i]]
    return mean(float((a - b).square().mean().sqrt()) for a, b in pairs) if pairs else None


def summaries(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row a method: means over prompts and seeds, compared with the prior's own samples."""
    pairs = {(row["noun"], row["color"]) for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    own = {pair: [samples_of(*pair, seed) for seed in seeds] for pair in sorted(pairs)}
    found = []
    for name in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == name]
        ratios, spreads = [], []
        for pair in sorted({(row["noun"], row["color"]) for row in mine}):
            pictures = [views_of(row["path"])[0] for row in mine if (row["noun"], row["color"]) == pair]
            reference = mean(saturation(sample) for sample in own[pair])
            ratios += [saturation(picture) / max(reference, 1e-6) for picture in pictures]
            between, among = difference(pictures), difference(own[pair])
            spreads += [between / max(among, 1e-6)] if between is not None and among is not None else []
        turned = [
            row["azimuth_within_45"]
            for row in mine
            if row["noun"] in ASYMMETRIC and row["azimuth_within_45"] is not None
        ]
        found.append(
            {
                "method": name,
                "noun": mean(row["noun_accuracy"] for row in mine),
                "noun, unseen pairs": _mean(row["noun_accuracy"] for row in mine if row["held_out"]),
                "colour": mean(row["color_accuracy"] for row in mine),
                "azimuth": _mean(turned),
                "saturation": mean(ratios),
                "diversity": _mean(spreads),
                "steps": mine[0]["steps"],
                "evaluations": mine[0]["evaluations"],
                "cpu seconds": mean(row["cpu_seconds"] for row in mine),
                "runs": len(mine),
            }
        )
    return found


def _mean(values: Any) -> float | None:
    some = list(values)
    return mean(some) if some else None


def as_markdown(table: list[dict[str, Any]]) -> str:
    """Return the table in Markdown, best noun accuracy first, the start last."""
    ordered = sorted(table, key=lambda row: (row["method"] == START, -row["noun"]))
    names = list(ordered[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in ordered:
        cells = [
            "-"
            if v is None
            else f"{v:.2f}"
            if isinstance(v, float) and abs(v) < 20
            else f"{v:.0f}"
            if isinstance(v, float)
            else str(v)
            for v in row.values()
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write_sheet(rows: list[dict[str, Any]], file: Path) -> None:
    """Write a row a method with the front and the back of each prompt's first seed."""
    import numpy as np
    from PIL import Image, ImageDraw

    strips = []
    for name in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == name and row["seed"] == min(r["seed"] for r in rows)]
        pictures = [view for row in mine for view in views_of(row["path"])[0][[0, VIEWS // 2]].numpy()]
        strip = Image.fromarray((np.concatenate(pictures, axis=1) * 255).round().astype(np.uint8))
        framed = Image.new("RGB", (110 + strip.width, strip.height), "white")
        framed.paste(strip, (110, 0))
        ImageDraw.Draw(framed).text((4, SIZE // 2 - 6), name, fill=(0, 0, 0))
        strips.append(framed)
    sheet = Image.new("RGB", (max(s.width for s in strips), sum(s.height for s in strips)), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    sheet.save(file, optimize=True)
