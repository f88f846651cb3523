"""What pictures say about roughness and metalness under a known light: python benchmarks/relighting_landscape.py [--docs DIR].

Points with known normals show one of four materials (`TRUE`). For each roughness and metalness of a grid the base colour that
fits best is found exactly: shading is linear in it, so the mean absolute error is least at a weighted median. What is left is a
landscape of two numbers, whose local minima are printed. A minimum of this landscape is one of all five numbers: where there is
more than one, descent from a single start may end in the wrong one, whatever the optimiser.

The picture has one line a light and one column a material: black is the smallest error, white the largest, on a logarithmic
scale; roughness goes from left to right, metalness upwards; green marks the truth, red the other minima.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from sds3d.shading.brdf import Material
from sds3d.shading.deferred import shade_points
from sds3d.shading.directions import cube_directions
from sds3d.shading.environment import EnvironmentLight
from sds3d.shading.lights import LIGHTS
from sds3d.shading.prefilter import Prefiltered

TRUE = torch.tensor(
    [[0.9, 0.6, 0.3, 0.2, 1.0], [0.7, 0.7, 0.8, 0.6, 1.0], [0.2, 0.5, 0.3, 0.7, 0.0], [0.6, 0.1, 0.1, 0.3, 0.0]]
)
"""Base colour, roughness and metalness of two metals and two dielectrics."""
NAMES = ("polished metal", "rough metal", "rough plastic", "glossy plastic")
ROUGHNESS, METALNESS = torch.linspace(0.04, 1.0, 49), torch.linspace(0.0, 1.0, 41)
RESOLUTION, POINTS = 8, 60


def light_of(name: str, resolution: int = RESOLUTION) -> Prefiltered:
    """Return a light of `LIGHTS` as shading reads it."""
    return EnvironmentLight(LIGHTS[name](cube_directions(resolution))).prefiltered()


def points(count: int, seed: int, kinds: int = len(TRUE)) -> tuple[Tensor, Tensor]:
    """Return normals and views [kinds, count, 3] that see the points from the front."""
    generator = torch.Generator().manual_seed(seed)
    normal, view = torch.nn.functional.normalize(torch.randn(2, kinds, count, 3, generator=generator), dim=-1)
    return normal, torch.where((normal * view).sum(-1, keepdim=True) < 0, -view, view)


def seen(numbers: Tensor, normal: Tensor, view: Tensor, light: Prefiltered) -> Tensor:
    """Return what points [..., P, 3] of materials [..., 5] show, linear [..., P, 3]."""
    values = numbers[..., None, :].expand(*numbers.shape[:-1], normal.shape[-2], 5)
    material = Material(values[..., :3], values[..., 3:4], values[..., 4:])
    shape = (*values.shape[:-1], 3)
    return shade_points(material, normal.expand(shape), view.expand(shape), light).rgb


def landscape(
    truth: Tensor, normal: Tensor, view: Tensor, light: Prefiltered, roughness: Tensor, metalness: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the mean absolute error [R, M] with the best base colour, and that colour [R, M, 3], clipped to [0, 1].

    truth, normal, view: [P, 3]. roughness: [R]. metalness: [M].
    """
    grid = torch.cartesian_prod(roughness, metalness)
    dark, bright = (
        seen(torch.cat([torch.full((len(grid), 3), base), grid], dim=1), normal, view, light) for base in (0.0, 1.0)
    )
    slope = bright - dark
    ratio, order = ((truth - dark) / slope).sort(dim=1)
    weight = slope.abs().gather(1, order).cumsum(dim=1)
    middle = (weight >= 0.5 * weight[:, -1:]).float().argmax(dim=1, keepdim=True)
    base = ratio.gather(1, middle).clamp(0.0, 1.0)
    error = (slope * base + dark - truth).abs().mean(dim=(1, 2))
    shape = (len(roughness), len(metalness))
    return error.view(shape), base.view(*shape, 3)


def minima(error: Tensor) -> Tensor:
    """Return the places [K, 2] int64 of a landscape [R, M] that are lower than all their eight neighbours."""
    around = torch.nn.functional.pad(error, (1, 1, 1, 1), value=float("inf"))
    near = around.unfold(0, 3, 1).unfold(1, 3, 1).flatten(2).sort(dim=-1).values
    return ((error == near[..., 0]) & (near[..., 1] > error)).nonzero()


def picture(error: Tensor, right: Tensor, places: Tensor) -> Tensor:
    """Return a landscape as a picture [4 M, 4 R, 3], the true place `right` [2] green and the other minima red."""
    level = (error.clamp_min(1e-3).log10() + 3.0) / 2.5
    shown = level.clamp(0.0, 1.0)[..., None].repeat(1, 1, 3)
    for place in places:
        shown[place[0], place[1]] = torch.tensor([1.0, 0.15, 0.1])
    shown[right[0], right[1]] = torch.tensor([0.1, 0.9, 0.2])
    return shown.transpose(0, 1).flip(0).repeat_interleave(4, 0).repeat_interleave(4, 1)


def bench(lights: list[str]) -> tuple[list[str], list[Tensor]]:
    """Return a line of text and a picture for each light and material."""
    lines, pictures = [], []
    normal, view = points(POINTS, 0)
    for name in lights:
        light = light_of(name)
        for kind, true in enumerate(TRUE):
            seen_from = normal[kind], view[kind], light
            error, base = landscape(seen(true, *seen_from), *seen_from, ROUGHNESS, METALNESS)
            places = minima(error)
            right = torch.stack([(ROUGHNESS - true[3]).abs().argmin(), (METALNESS - true[4]).abs().argmin()])
            pictures.append(picture(error, right, places))
            for row, column in places.tolist():
                colour = ", ".join(f"{value:.2f}" for value in base[row, column])
                numbers = f"{ROUGHNESS[row]:9.2f} {METALNESS[column]:9.2f} {error[row, column]:8.4f}"
                lines.append(f"{name:9} {NAMES[kind]:15} {numbers}   {colour}")
    return lines, pictures


def main() -> None:
    """Print all minima; write the picture if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lights", default="sky,overcast,lamps,studio")
    parser.add_argument("--docs", type=Path, help="folder for landscape.png")
    given = parser.parse_args()
    lights = given.lights.split(",")
    lines, pictures = bench(lights)
    print(f"{'light':9} {'material':15} roughness metalness    error   base colour")
    print("\n".join(lines))
    if given.docs:
        from sds3d.export.sheet import write_contact_sheet

        labels = [f"{light}: {name}" for light in lights for name in NAMES]
        given.docs.mkdir(parents=True, exist_ok=True)
        write_contact_sheet(given.docs / "landscape.png", torch.stack(pictures).numpy(), len(NAMES), labels)


if __name__ == "__main__":
    main()
