"""From a trained generator to the files of an asset: seconds, no optimisation."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from renderers.base import Renderer
from renderers.triplane import TriplaneRenderer
from sds3d.cameras import turntable
from sds3d.config.generator import ViewConfig, VolumeConfig
from sds3d.errors import ConfigError
from sds3d.export.atomic import write_bytes
from sds3d.generators.base import Latents
from sds3d.generators.progress import sample
from sds3d.generators.weights import StoredGenerator, read_weights
from systems.randomness import generator_for

if TYPE_CHECKING:
    from sds3d.generators.base import LatentGenerator
    from sds3d.priors.base import Prior

FORMATS = {
    "glb": "mesh.glb", "obj": "mesh.obj", "mesh_ply": "mesh.ply", "stl": "mesh.stl", "mp4": "turntable.mp4", "png": "contact.png",
}  # fmt: skip
"""Formats that generators write, and the names of the files."""
TURN, SIZE, WHITE = 48, 192, 1.0


@dataclass
class Maker:
    """A generator in memory: makes one asset after the other. Use `open_maker`."""

    stored: StoredGenerator
    generator: LatentGenerator
    base: Prior

    def make(self, prompt: str, seed: int) -> Renderer:
        """Return the object of `prompt` and `seed` as a renderer. Raises: ConfigError for generators of pictures."""
        recipe = self.stored.recipe
        text = self.base.text([prompt])
        draws = generator_for(seed, "start", stage=2)
        with torch.no_grad():
            assets = self.generator.decode(sample(self.generator, text, recipe.turns, draws))
        if isinstance(assets, Latents):
            raise ConfigError("This generator makes pictures, not 3D objects. Give the file of a triplane generator.")
        return TriplaneRenderer(assets, finest(recipe.views))


def finest(views: Sequence[ViewConfig]) -> VolumeConfig:
    """Return how to show objects trained with `views`: the volume renderer's settings, twice the samples."""
    own = next((view.volume for view in views if view.kind == "volume"), VolumeConfig(samples=64))
    return own.model_copy(update={"samples": 2 * own.samples, "normals": False, "keep_surface": False})


def open_maker(weights: Path, device: str = "auto") -> Maker:
    """Return the generator in the file `weights`. Raises: AssetError if it is broken or its base is another here."""
    from systems.generator_build import load_generator

    stored = read_weights(weights)
    generator, base = load_generator(stored, device)
    return Maker(stored, generator, base)


def write_object(renderer: Renderer, folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write the object in `formats`, keys of `FORMATS`, and return the files."""
    from sds3d.export.mesh import write_mesh
    from sds3d.export.sheet import write_contact_sheet
    from sds3d.export.video import write_turntable
    from systems.pictures import film

    folder.mkdir(parents=True, exist_ok=True)
    mesh: Any = None
    files = []
    for name in dict.fromkeys(formats):
        path = folder / FORMATS[name]
        if name == "mp4":
            files.append(write_turntable(path, film(renderer, turntable(TURN, SIZE), WHITE)))
        elif name == "png":
            files.append(write_contact_sheet(path, film(renderer, turntable(8, SIZE), WHITE), 4))
        else:
            mesh = renderer.to_mesh(96, 20_000) if mesh is None else mesh
            files.append(write_mesh(path, mesh))
    return files


def make_files(maker: Maker, prompt: str, seed: int, folder: Path, formats: Sequence[str]) -> list[Path]:
    """Make the asset of `prompt`, write it and what the judge says of it, and return the files."""
    from systems.metrics import verdict

    start = time.monotonic()
    renderer = maker.make(prompt, seed)
    made = time.monotonic() - start
    files = write_object(renderer, folder, formats)
    seconds = {"make": round(made, 3), "make and write": round(time.monotonic() - start, 3)}
    recipe = maker.stored.recipe
    record = {
        "prompt": prompt, "seed": seed, "recipe": recipe.name, "base": maker.stored.base, "steps": maker.stored.steps,
        "seconds": seconds, "judge": verdict(renderer, prompt), "paper": f"{recipe.paper} (arXiv {recipe.arxiv})",
    }  # fmt: skip
    write_bytes(folder / "asset.json", json.dumps(record, indent=2, ensure_ascii=False).encode())
    return [*files, folder / "asset.json"]
