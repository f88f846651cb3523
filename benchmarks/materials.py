"""Text to material on toybox meshes with the bundled prior: how much light ends up in the base colour?
python benchmarks/materials.py [--prompts WORDS,...] [--rows NAME,...] [--steps N] [--seeds N] [--picture FILE] [--json FILE].

Rows: dreammat (CSD, a light of its own for each view), "sds" (SDS, one fixed light: Fantasia3D's way), and the two crosses
that tell which of the two differences counts. All are the recipe dreammat under --tiny with the keys of `ROWS` changed, so
without a ControlNet. Columns: see `sds3d.metrics.baked_light` (correlation with the light "studio", which the fixed rows are
trained in; stops and share of brightness that follow from the normal), mean base colour, CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as launch.py does
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from renderers.isosurface.distances import sample_faces
from renderers.pbr_mesh import PbrMeshRenderer
from renderers.surface import vertex_normals
from sds3d.cameras import turntable
from sds3d.config import load_recipe
from sds3d.hardware import processor, threads
from sds3d.metrics.baked_light import baked_light
from sds3d.shading.colour import srgb_from_linear
from sds3d.shading.lights import open_light
from systems.build import build_prior, build_system, choose_device, introduce

FIXED = ("renderer.lights=[studio]", "renderer.turn_lights=false")
SDS = ("guidance.method=sds", "guidance.guidance_scale=30")
ROWS: dict[str, tuple[str, ...]] = {
    "dreammat": (),
    "csd, fixed light": FIXED,
    "sds, random lights": SDS,
    "sds, fixed light": (*SDS, *FIXED),
}
POINTS = 4000
OPEN = 0.7
"""Points that see less of their sky are left out: they are dark in every light."""


def train(prompt: str, row: str, steps: int, seed: int, prior: Any) -> tuple[PbrMeshRenderer, float]:
    """Return the trained asset and its CPU seconds."""
    noun = prompt.split()[-1]
    keys = (f"renderer.init=toybox:{noun}", f"training.steps={steps}", f"seed={seed}", "prompt.negative=", *ROWS[row])
    recipe = load_recipe("dreammat", ["tiny"], keys, {"prompt.text": ("--prompts", prompt)})
    introduce(prior, recipe)
    system = build_system(recipe, prior_of=lambda *_: prior)
    optimiser = system.configure_optimizers()
    start = time.process_time()
    for step in range(steps):
        loss, _, render = system.losses(step, "cpu")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = system.learning_rates(step)[group["name"]]
        optimiser.step()
        system.renderer.after_step(step, optimiser, render)
    return system.renderer, time.process_time() - start  # type: ignore[return-value]


@torch.no_grad()
def measure(renderer: PbrMeshRenderer) -> dict[str, float]:
    """Return the columns of the table."""
    generator = torch.Generator().manual_seed(0)
    points, face, weight = sample_faces(renderer.vertices, renderer.faces, POINTS, generator)
    normals = (
        vertex_normals(renderer.vertices, renderer.faces).index_select(0, renderer.faces[face].flatten()).view(-1, 3, 3)
    )
    normal = torch.nn.functional.normalize((weight[..., None] * normals).sum(dim=1), dim=1)
    is_open = renderer.openness_at(points, normal)[:, 0] > OPEN
    found = renderer.material_at(points[is_open])
    light = open_light("studio", 16).prefiltered().diffuse(normal[is_open])
    baked = baked_light(found["base_colour"], normal[is_open], light)
    red, green, blue = found["base_colour"].mean(dim=0).tolist()
    rest = {name: float(found[name].mean()) for name in ("roughness", "metallic")}
    return {"red": red, "green": green, "blue": blue, **rest, **vars(baked)}


@torch.no_grad()
def pictures(renderer: PbrMeshRenderer, size: int = 128) -> torch.Tensor:
    """Return [size, 4 size, 3]: lit by studio and by sunset, and base colours from the front and from behind."""
    cameras = turntable(2, size, 20.0, 2.5, 45.0)
    seen, white = renderer.gbuffer(cameras), torch.ones(2, 1, 1, 3)
    shown = [renderer.picture(seen, open_light(name, 16).prefiltered())[:1] for name in ("studio", "sunset")]
    layers = torch.cat([*shown, srgb_from_linear(seen.base_colour)])
    alpha = torch.cat([seen.alpha[:1], seen.alpha[:1], seen.alpha])
    return torch.cat(list(layers.clamp(0, 1) * alpha + white[:1] * (1 - alpha)), dim=1)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", default="a red mug,a blue chair,a yellow duck")
    parser.add_argument("--rows", default=",".join(name.replace(",", ";") for name in ROWS))
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [name.replace(";", ",") for name in options.rows.split(",")]
    prior, results, drawn = None, [], []
    print(f"{processor()}, {threads()} threads; {options.steps} steps, {options.seeds} seeds")
    print(
        f"{'prompt':16}{'row':22}{'corr':>7}{'stops':>7}{'share':>7}{'  base colour':18}{'rough':>6}{'metal':>6}{'cpu s':>7}"
    )
    for prompt in options.prompts.split(","):
        for row in rows:
            for seed in range(options.seeds):
                recipe = load_recipe("dreammat", ["tiny"], (), {"prompt.text": ("--prompts", prompt)})
                prior = prior or build_prior(recipe, choose_device("cpu"))
                renderer, seconds = train(prompt, row, options.steps, seed, prior)
                found = measure(renderer)
                results.append({"prompt": prompt, "row": row, "seed": seed, "cpu_s": seconds, **found})
                colour = "  {red:.2f} {green:.2f} {blue:.2f}".format(**found)
                figures = "{correlation:7.2f}{stops:7.2f}{share:7.2f}".format(**found)
                more = "{roughness:6.2f}{metallic:6.2f}".format(**found)
                print(f"{prompt:16}{row:22}{figures}{colour:18}{more}{seconds:7.0f}", flush=True)
                if seed == 0:
                    drawn.append(pictures(renderer))
                if options.json:
                    options.json.write_text(json.dumps({"steps": options.steps, "rows": results}, indent=1) + "\n")
                if options.picture:
                    from sds3d.export.images import write_png

                    write_png(options.picture, (torch.cat(drawn) * 255).round().byte().numpy())


if __name__ == "__main__":
    main()
