"""Text to material on toybox meshes with the bundled prior: how much light ends up in the base colour?
python benchmarks/materials.py [--prompts WORDS,...] [--rows NAME,...] [--steps N] [--seeds N] [--picture FILE] [--json FILE].

Rows: dreammat (CSD, a light of its own for each view, told to the bundled ControlNet), the same not told, "sds" (SDS, one fixed
light, not told: Fantasia3D's way), and the crosses that tell which of the differences counts. All are the recipe dreammat under
--tiny with the keys of `ROWS` changed. Columns: see `sds3d.metrics.baked_light` (correlation with the light "studio", which the
fixed rows are trained in; stops of brightness that follow from the normal, "main" the same without what faces downwards or is of
another colour than most of the toy, and the share of brightness), mean base colour, CPU seconds.
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

import numpy as np
import torch

from renderers.gbuffer import MaterialField
from renderers.isosurface.distances import sample_faces
from renderers.pbr_mesh import PbrMeshRenderer, material_texture
from renderers.surface import vertex_normals
from renderers.surface_texture import Places
from sds3d.cameras import turntable
from sds3d.config import load_recipe
from sds3d.hardware import processor, threads
from sds3d.meshing.from_toybox import mesh_from_toy
from sds3d.meshing.mesh import Mesh
from sds3d.metrics.baked_light import baked_light
from sds3d.shading.colour import srgb_from_linear
from sds3d.shading.lights import open_light
from sds3d.toybox.captions import Description
from sds3d.toybox.dataset import build
from systems.build import build_prior, build_system, choose_device, introduce
from systems.light_pictures import painted

FIXED = ("renderer.lights=[studio]", "renderer.turn_lights=false")
GENTLE = ("guidance.method=sds", "guidance.guidance_scale=7.5")
SDS = ("guidance.method=sds", "guidance.guidance_scale=30")
UNTOLD = ("prior.controlnets=[]", "prior.control_scales=[]", "renderer.conditions=[]")
ROWS: dict[str, tuple[str, ...]] = {
    "dreammat": (),
    "dreammat, not told": UNTOLD,
    "csd, fixed light, told": FIXED,
    "csd, fixed light": (*UNTOLD, *FIXED),
    "sds, random lights": (*UNTOLD, *SDS),
    "sds 7.5, told": GENTLE,
    "sds 7.5, not told": (*UNTOLD, *GENTLE),
    "sds, fixed light": (*UNTOLD, *SDS, *FIXED),
}
LOWEST = -0.5
"""Normals below this vertical part face downwards: cameras hardly see them, so they keep the colour a material begins with."""
TRUTH = "the toy's own colours"
POINTS = 4000
OPEN = 0.7
"""Points that see less of their sky are left out: they are dark in every light."""


def train(prompt: str, row: str, steps: int, seed: int, priors: dict[Any, Any]) -> tuple[PbrMeshRenderer, float]:
    """Return the trained asset and its CPU seconds; `priors` keeps what was loaded."""
    noun = prompt.split()[-1]
    keys = (f"renderer.init=toybox:{noun}", f"training.steps={steps}", f"seed={seed}", "prompt.negative=", *ROWS[row])
    recipe = load_recipe("dreammat", ["tiny"], keys, {"prompt.text": ("--prompts", prompt)})
    if recipe.prior.controlnets not in priors:
        priors[recipe.prior.controlnets] = build_prior(recipe, choose_device("cpu"))
    prior = priors[recipe.prior.controlnets]
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
def measure(renderer: PbrMeshRenderer, paint: MaterialField, is_own: bool = False) -> dict[str, float]:
    """Return the columns of the table; paint: the toy's own colours, which `is_own` puts in place of what was learnt."""
    generator = torch.Generator().manual_seed(0)
    points, face, weight = sample_faces(renderer.vertices, renderer.faces, POINTS, generator)
    normals = (
        vertex_normals(renderer.vertices, renderer.faces).index_select(0, renderer.faces[face].flatten()).view(-1, 3, 3)
    )
    normal = torch.nn.functional.normalize((weight[..., None] * normals).sum(dim=1), dim=1)
    is_open = renderer.openness_at(points, normal)[:, 0] > OPEN
    own = paint(Places(points, face, weight))
    found = {k: v[is_open] for k, v in own.items()} if is_own else renderer.material_at(points[is_open])
    light = open_light("studio", 16).prefiltered().diffuse(normal[is_open])
    baked = baked_light(found["base_colour"], normal[is_open], light)
    true = own["base_colour"][is_open]
    _, of, count = torch.unique((true * 64.0).round(), dim=0, return_inverse=True, return_counts=True)
    is_main = (normal[is_open, 2] > LOWEST) & (of == count.argmax())
    main = baked_light(found["base_colour"][is_main], normal[is_open][is_main], light[is_main])
    red, green, blue = found["base_colour"].mean(dim=0).tolist()
    rest = {name: float(found[name].mean()) for name in ("roughness", "metallic")}
    return {"red": red, "green": green, "blue": blue, **rest, **vars(baked), "main_stops": main.stops}


def toy_of(prompt: str) -> Mesh:
    """Return the toy a run of `prompt`, "a COLOUR NOUN", starts from, in its own colours."""
    _, colour, noun = prompt.split()
    return mesh_from_toy(build(Description(noun=noun, color=colour), np.random.default_rng(0)))


def truth(prompt: str) -> dict[str, float]:
    """Return the columns of the toy's own colours: parts of other colours count as light, so this is what 0 would be."""
    toy, config = toy_of(prompt), load_recipe("dreammat", ["tiny"]).renderer
    vertices, faces = torch.from_numpy(toy.vertices), torch.from_numpy(toy.faces)
    renderer = PbrMeshRenderer(vertices, faces, material_texture(config, torch.Generator()), config)  # type: ignore[arg-type]
    return measure(renderer, painted(toy), is_own=True)


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
    parser.add_argument("--rows", default=",".join(name.replace(",", ";") for name in (*ROWS, TRUTH)))
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [name.replace(";", ",") for name in options.rows.split(",")]
    priors: dict[Any, Any] = {}
    results, drawn = [], []
    print(f"{processor()}, {threads()} threads; {options.steps} steps, {options.seeds} seeds")
    print(
        f"{'prompt':16}{'row':22}{'corr':>7}{'stops':>7}{'main':>7}{'share':>7}"
        f"{'  base colour':18}{'rough':>6}{'metal':>6}{'cpu s':>7}"
    )
    for prompt in options.prompts.split(","):
        for row in rows:
            for seed in range(options.seeds if row != TRUTH else 1):
                if row == TRUTH:
                    seconds, found = 0.0, truth(prompt)
                else:
                    renderer, seconds = train(prompt, row, options.steps, seed, priors)
                    found = measure(renderer, painted(toy_of(prompt)))
                results.append({"prompt": prompt, "row": row, "seed": seed, "cpu_s": seconds, **found})
                colour = "  {red:.2f} {green:.2f} {blue:.2f}".format(**found)
                figures = "{correlation:7.2f}{stops:7.2f}{main_stops:7.2f}{share:7.2f}".format(**found)
                more = "{roughness:6.2f}{metallic:6.2f}".format(**found)
                print(f"{prompt:16}{row:22}{figures}{colour:18}{more}{seconds:7.0f}", flush=True)
                if seed == 0 and row != TRUTH:
                    drawn.append(pictures(renderer))
                if options.json:
                    options.json.write_text(json.dumps({"steps": options.steps, "rows": results}, indent=1) + "\n")
                if options.picture:
                    from sds3d.export.images import write_png

                    write_png(options.picture, (torch.cat(drawn) * 255).round().byte().numpy())


if __name__ == "__main__":
    main()
