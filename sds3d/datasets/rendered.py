"""Sets of pictures of our own material scenes: rendered once, then read from a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sds3d.cameras import Cameras, orbit
from sds3d.datasets.view_set import PLANES, ViewSet
from sds3d.errors import AssetError
from sds3d.export.atomic import atomic_path

VERSION = 1
"""Raised whenever equal settings would give other pictures."""


@dataclass(frozen=True, kw_only=True)
class RenderedSet:
    """What a rendered set holds.

    Args:
        scene: a name of `scenes.SCENES`. light: a name of `sds3d.shading.lights.LIGHTS`; relit: further ones.
        views: pictures, spread over the sphere from 20 degrees below the horizon to 70 above. size: pixels a side.
        turn_deg: by which all azimuths grow, so that another set looks from between.
        samples, supersample, seed, is_shadowed: see `truth.render`.
        light_resolution: texels along an edge of a face of the light map.
    """

    scene: str
    light: str = "studio"
    relit: tuple[str, ...] = ()
    views: int = 24
    size: int = 64
    turn_deg: float = 0.0
    samples: int = 64
    supersample: int = 2
    seed: int = 0
    is_shadowed: bool = True
    light_resolution: int = 32

    @property
    def key(self) -> str:
        """A short name that differs wherever the pictures would."""
        text = json.dumps({"version": VERSION, **asdict(self)}, sort_keys=True)
        return f"{self.scene}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def spread(
    views: int, size: int, low_deg: float = -20.0, high_deg: float = 70.0, fov_deg: float = 45.0, turn_deg: float = 0.0
) -> Cameras:
    """Return cameras on a golden spiral between two elevations, turned by `turn_deg`, 2.5 world units from the origin."""
    row = torch.arange(views, dtype=torch.float64)
    low, high = torch.sin(torch.deg2rad(torch.tensor([low_deg, high_deg], dtype=torch.float64)))
    height = low + (row + 0.5) / views * (high - low)
    # The order is shuffled by the spiral's own angle, so that every n-th view is spread over all elevations.
    order = (row * 0.6180339887498949).remainder(1.0).argsort()
    azimuth = (row * 137.50776405003785 + turn_deg).remainder(360.0)
    elevation = torch.rad2deg(torch.asin(height))
    chosen = azimuth[order].float(), elevation[order].float()
    return orbit(*chosen, torch.full((views,), 2.5), fov_deg, size, size)


def rendered(what: RenderedSet, cache: Path | None = None) -> ViewSet:
    """Return the set, from `cache` if it is there (it is written otherwise); None: always rendered anew.

    A set of 24 views at 64 pixels takes some twenty seconds on one core.
    """
    path = None if cache is None else cache / f"{what.key}.pt"
    if path is not None and path.is_file():
        return load(path)
    from sds3d.datasets.scenes import make_scene
    from sds3d.datasets.truth import render
    from sds3d.shading.environment import EnvironmentLight
    from sds3d.shading.lights import named_light

    maps = {name: named_light(name) for name in (what.light, *what.relit)}
    with torch.no_grad():
        lights = {
            name: EnvironmentLight.from_latlong(image, what.light_resolution).prefiltered()
            for name, image in maps.items()
        }
        views = render(
            make_scene(what.scene),
            spread(what.views, what.size, turn_deg=what.turn_deg),
            lights,
            what.light,
            what.samples,
            what.supersample,
            what.seed,
            is_shadowed=what.is_shadowed,
        )
    views = with_lights(views, maps)
    if path is not None:
        save(path, views)
    return views


def with_lights(views: ViewSet, lights: Mapping[str, Tensor]) -> ViewSet:
    """Return the set with its light maps [h, w, 3]."""
    from dataclasses import replace

    return replace(views, lights=dict(lights))


def save(path: Path, views: ViewSet) -> None:
    """Write a set to one file: pictures as half precision, which is finer than 8 bits."""
    cameras = views.cameras
    state: dict[str, Any] = {
        "version": VERSION,
        "cam_to_world": cameras.cam_to_world,
        "intrinsics": cameras.intrinsics,
        "planes": {name: plane.half() for name in PLANES if (plane := getattr(views, name)) is not None},
        "relit": {name: pictures.half() for name, pictures in views.relit.items()},
        "lights": dict(views.lights),
        "words": {"name": views.name, "light": views.light, "view_transform": views.view_transform},
        "names": list(views.names),
    }
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def load(path: Path) -> ViewSet:
    """Return the set of a file written by `save`. Raises: AssetError if it is missing, broken or of another version."""
    import pickle

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise AssetError(
            f"'{path}' is no set of pictures ({error}). Delete it, and it is rendered again.", path
        ) from error
    if state.get("version") != VERSION:
        raise AssetError(f"'{path}' is of version {state.get('version')}, but {VERSION} is read. Delete it.", path)
    from sds3d.datasets.frames import cameras_at

    planes = {name: plane.float() for name, plane in state["planes"].items()}
    height, width = planes["images"].shape[1:3]
    if "normals" in planes:
        planes["normals"] = torch.nn.functional.normalize(planes["normals"], dim=-1)
    return ViewSet(
        cameras=cameras_at(state["cam_to_world"], state["intrinsics"], width, height),
        names=tuple(state["names"]),
        relit={name: pictures.float() for name, pictures in state["relit"].items()},
        lights=state["lights"],
        **planes,
        **state["words"],
    )
