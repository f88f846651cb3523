"""Where 200 particles end under every distillation method: python benchmarks/guidance_toy.py [--out FOLDER] [--steps N].

The prior is an exact mixture in the plane, so nothing is learned and nothing is approximated but the method itself. The
prompt "y" has two modes, the empty text five (those two among them), the negative prompt one of the other three. Every
method has its own defaults except the guidance scale, which is 2 for all, and the times, which fall from below 0.7 to
below 0.2 for all that do not bring a schedule of their own; each follows its gradient with the same Adam.
The trained score network of VSD and its relatives is the best there is: the noise prediction of the particles
themselves, each widened a little. Writes one picture with a panel a method and a table.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from sds3d.cameras import turntable  # noqa: E402
from sds3d.guidance.guide import Guidance  # noqa: E402
from sds3d.guidance.methods import METHODS  # noqa: E402
from sds3d.priors.base import Query  # noqa: E402
from sds3d.priors.exact import ExactPrior, Mixture  # noqa: E402
from sds3d.prompts import Prompt  # noqa: E402

PARTICLES, SCALE, RATE = 200, 2.0, 0.05
WIDTH = 0.2
"""Standard deviation of a particle in the eyes of the score network."""
WANTED = ((-1.9, 1.3, 0.4, 0.6), (2.0, 0.9, 0.4, 0.4))
OTHERS = ((0.0, -2.0, 0.5, 0.4), (-2.5, -1.4, 0.4, 0.3), (2.6, -1.5, 0.4, 0.3))
"""Modes: x, y, standard deviation, weight."""
EXTENT, PANEL = 4.2, 200
OWN_TIMES = ("sdi", "hifa", "consistent3d", "asynchronous", "rfds", "rfds-rev")
"""Methods whose schedule of noise is part of them; the others share one that falls."""
PROMPT = Prompt(text="y", source="src", view_dependent=False)
WITH_NEGATIVE = Prompt(text="y", negative="n", source="src", view_dependent=False)


def mixture(*modes: tuple[float, float, float, float]) -> Mixture:
    """Return a mixture over latents [2, 1, 1]."""
    table = torch.tensor(modes)
    return Mixture(table[:, :2, None, None], table[:, 2], table[:, 3] / table[:, 3].sum())


def plane() -> ExactPrior:
    """Return the prior: what each text means in the plane."""
    everything = (*WANTED, *OTHERS)
    meanings = {
        "y": mixture(*WANTED),
        "": mixture(*everything),
        "n": mixture(OTHERS[0]),
        "src": mixture((0.0, -0.3, 0.8, 1.0)),
        PROMPT.texts("better")[0]: mixture(*((x, y, 0.3, w) for x, y, _, w in WANTED)),
        PROMPT.texts("worse")[0]: mixture(*((0.6 * x, 0.6 * y, 1.0, w) for x, y, _, w in WANTED)),
    }
    return ExactPrior(meanings)


class Crowd:
    """The optimal score network of the present particles: a mixture of one narrow Gaussian each."""

    def __init__(self, prior: ExactPrior) -> None:
        self.prior = prior
        self.particles = torch.zeros(PARTICLES, 2, 1, 1)

    def __call__(self, queries: Sequence[Query]) -> list[Tensor]:
        """Return the noise prediction for each query."""
        count = len(self.particles)
        crowd = Mixture(self.particles, torch.full((count,), WIDTH), torch.full((count,), 1.0 / count))
        exact = ExactPrior({"plain": crowd}, levels=self.prior.levels)
        asked = [Query(z_t=q.z_t, t=q.t, text=torch.zeros_like(q.text)) for q in queries]
        return exact.predict(asked)


def settings_of(name: str) -> dict[str, Any]:
    """Return what differs from the method's defaults: the common guidance scale and times."""
    changes: dict[str, Any] = {"guidance_scale": SCALE}
    if name not in OWN_TIMES:
        changes |= {"t_min": 0.02, "t_max": {"clock": "fraction", "points": [[0, 0.7], [1, 0.2]]}}
    if name == "dsd":
        changes |= {"unconditional": SCALE - 1.0, "variational": 1.0}
    return changes


def run(name: str, steps: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the particles before and after, [N, 2] each."""
    prior = plane()
    random = torch.Generator().manual_seed(seed)
    start = torch.randn(PARTICLES, 2, 1, 1, generator=random) * 1.4
    source = None
    if "source picture" in METHODS[name].needs:
        start = start * 0.57 + torch.tensor([0.0, -0.3])[:, None, None]
        source = start.clone()
    crowd = Crowd(prior)
    config = METHODS[name].config.model_validate({"method": name, **settings_of(name)})
    guide = Guidance(prior, config, steps, {"psi": crowd} if METHODS[name].trains else None)
    particles = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([particles], lr=RATE, betas=(0.9, 0.99))
    cameras = turntable(PARTICLES, 1)
    asks_negative = any(branch.text == "n" for branch in guide.rule.needs)
    prompt = WITH_NEGATIVE if asks_negative else PROMPT  # it would replace the empty text in the guidance of the others
    for step in range(steps):
        crowd.particles = particles.detach()
        draws = guide.draw(particles.detach(), step, random)
        gradient, _ = guide.gradient(particles.detach(), prompt, cameras, step, draws, source)
        optimiser.param_groups[0]["lr"] = RATE * (1.0 - step / steps)
        particles.grad = gradient
        optimiser.step()
    return start.flatten(1), particles.detach().flatten(1)


def figures(end: Tensor) -> dict[str, float | None]:
    """Return where the particles are: share near each wanted mode (3 sd), spread there in units of the mode's own."""
    found: dict[str, float | None] = {}
    spreads = []
    near_any = torch.zeros(len(end), dtype=torch.bool)
    for number, (x, y, spread, _) in enumerate(WANTED):
        offset = end - torch.tensor([x, y])
        near = offset.norm(dim=1) < 3.0 * spread
        near_any |= near
        found[f"mode_{number + 1}"] = float(near.float().mean())
        if near.sum() > 5:
            spreads.append(float(offset[near].std() / spread))
    found["elsewhere"] = float((~near_any).float().mean())
    found["spread"] = sum(spreads) / len(spreads) if spreads else None
    return found


def panel(name: str, start: Tensor, end: Tensor) -> Any:
    """Return a picture: density of the prompt (grey), of the empty text (faint), particles before and after."""
    from PIL import Image, ImageDraw

    ticks = torch.linspace(-EXTENT, EXTENT, PANEL)
    y, x = torch.meshgrid(-ticks, ticks, indexing="ij")
    shade = torch.full((PANEL, PANEL, 3), 255.0)
    for modes, colour, depth in (((*WANTED, *OTHERS), (0.16, 0.13, 0.1), 1.0), (WANTED, (1.0, 0.55, 0.05), 1.0)):
        density = sum(w / s**2 * torch.exp(-((x - mx) ** 2 + (y - my) ** 2) / (2 * s**2)) for mx, my, s, w in modes)
        density = (density / density.max()).sqrt()[..., None] * depth
        shade = shade - 110.0 * density * torch.tensor(colour)
    picture = Image.fromarray(shade.clamp(0, 255).byte().numpy())
    drawing = ImageDraw.Draw(picture)

    def place(point: Tensor) -> tuple[float, float]:
        unit = (point / EXTENT + 1.0) / 2.0 * (PANEL - 1)
        return float(unit[0]), float(PANEL - 1 - unit[1])

    for points, size, fill in ((start, 0.6, (175, 175, 175)), (end, 1.6, (200, 30, 40))):
        for point in points.clamp(-EXTENT + 0.03, EXTENT - 0.03):
            px, py = place(point)
            drawing.ellipse((px - size, py - size, px + size, py + size), fill=fill)
    drawing.text((6, 4), name, fill=(0, 0, 0), font_size=17)
    drawing.rectangle((0, 0, PANEL - 1, PANEL - 1), outline=(200, 200, 200))
    return picture


def main() -> None:
    """Run all methods, write the picture and the table."""
    from PIL import Image

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "guidance", help="folder for toy.png and toy.json")
    parser.add_argument("--steps", type=int, default=400, help="steps of each method")
    parser.add_argument("--only", nargs="*", default=list(METHODS), help="names of methods")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    panels, rows = [], {}
    for name in options.only:
        start, end = run(name, options.steps)
        panels.append(panel(name, start, end))
        rows[name] = figures(end)
        numbers = "  ".join(f"{k} {'-' if v is None else format(v, '5.2f')}" for k, v in rows[name].items())
        sys.stdout.write(f"{name:14s} {numbers}\n")
        sys.stdout.flush()
    columns = 6
    lines = -(-len(panels) // columns)
    sheet = Image.new("RGB", (columns * PANEL, lines * PANEL), "white")
    for number, picture in enumerate(panels):
        sheet.paste(picture, (number % columns * PANEL, number // columns * PANEL))
    sheet.quantize(128).save(options.out / "toy.png", optimize=True)
    document = {"steps": options.steps, "particles": PARTICLES, "scale": SCALE, "methods": rows}
    (options.out / "toy.json").write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
