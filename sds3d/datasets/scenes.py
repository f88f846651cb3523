"""Toybox scenes with materials: glossy, metallic, mixed, rough, and some with light paths that no single bounce explains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sds3d.errors import AssetError, nearest
from sds3d.toybox.shape import Shape, ToyMesh

Surface = tuple[float, float]
"""Roughness and metalness of a part."""

PLASTIC, SATIN, CHALK = (0.22, 0.0), (0.45, 0.0), (0.85, 0.0)
POLISHED, BRUSHED, MIRROR = (0.22, 1.0), (0.45, 1.0), (0.08, 1.0)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """F triangles with a constant material each.

    Args:
        name: key of `SCENES`.
        corners, normals: [F, 3, 3] float32 positions and unit shading normals, world frame.
        base_colour: [F, 3] float32 linear in [0, 1]. roughness, metallic: [F] float32 in [0, 1].
        is_unmodelled: whether light between surfaces matters much, which a distant light map cannot explain.
    """

    name: str
    corners: NDArray[np.float32]
    normals: NDArray[np.float32]
    base_colour: NDArray[np.float32]
    roughness: NDArray[np.float32]
    metallic: NDArray[np.float32]
    is_unmodelled: bool = False


def make_scene(name: str) -> Scene:
    """Return a scene of `SCENES`; always the same. Raises: AssetError for an unknown name."""
    if name not in SCENES:
        raise AssetError(f"There is no material scene '{name}'. Did you mean {nearest(name, SCENES)}?")
    mesh, surfaces, usual, is_unmodelled = SCENES[name]()
    kind = np.array([surfaces.get(part, usual) for part in mesh.part_names], np.float32)[mesh.parts]
    linear = np.where(mesh.colors <= 0.04045, mesh.colors / 12.92, ((mesh.colors + 0.055) / 1.055) ** 2.4)
    return Scene(
        name=name,
        corners=mesh.corners,
        normals=mesh.normals,
        # Nothing real is quite black or white, and light and albedo could not be told apart there.
        base_colour=np.clip(linear, 0.02, 0.9).astype(np.float32),
        roughness=np.ascontiguousarray(kind[:, 0]),
        metallic=np.ascontiguousarray(kind[:, 1]),
        is_unmodelled=is_unmodelled,
    )


Made = tuple[ToyMesh, dict[str, Surface], Surface, bool]


def _toy(noun: str, rgb: tuple[float, float, float], seed: int) -> ToyMesh:
    from sds3d.toybox.objects import builders

    shape = Shape(main=np.array(rgb), stripe=None)
    builders()[noun](shape, np.random.default_rng(seed))
    return shape.mesh()


def _snowman() -> Made:
    """Glossy: a plastic snowman."""
    return _toy("snowman", (0.35, 0.6, 0.85), 0), {"scarf": CHALK, "arm": SATIN}, PLASTIC, False


def _duck() -> Made:
    """Metallic: a duck of polished gold with a rougher wing."""
    return _toy("duck", (0.95, 0.78, 0.42), 1), {"wing": BRUSHED, "eye": PLASTIC, "pupil": PLASTIC}, POLISHED, False


def _robot() -> Made:
    """Mixed: brushed and polished metal, plastic and chalk."""
    surfaces = {"body": BRUSHED, "head": POLISHED, "panel": PLASTIC, "battery": CHALK, "foot": CHALK, "slot": CHALK}
    return _toy("robot", (0.85, 0.35, 0.3), 2), surfaces, SATIN, False


def _teapot() -> Made:
    """Glossy and metallic: a glazed pot with a knob and rim of copper."""
    return _toy("teapot", (0.3, 0.65, 0.5), 3), {"lid": POLISHED, "knob": BRUSHED, "handle": SATIN}, PLASTIC, False


def _dog() -> Made:
    """Rough: nothing shines, so nothing separates light from colour but shading itself."""
    return _toy("dog", (0.75, 0.5, 0.3), 4), {"nose": PLASTIC}, CHALK, False


def _mirror() -> Made:
    """Unmodelled: a mirror ball among coloured chalk balls on a plate, which it reflects."""
    shape = Shape(main=np.array((0.92, 0.92, 0.92)), stripe=None)
    shape.lathe([(0, 0), (1.0, 0), (1.0, 0.1), (0, 0.1)], "cream", "plate", at=(0, 0, -0.1), segments=40)
    shape.ellipsoid((0.5, 0.5, 0.5), "main", "mirror", at=(0, 0, 0.5), segments=40, rings=24)
    for k, colour in enumerate(("red", "lamp yellow", "orange", "dark wood")):
        angle = 2.0 * np.pi * (k + 0.5) / 4
        at = (0.72 * np.cos(angle), 0.72 * np.sin(angle), 0.2)
        shape.ellipsoid((0.2, 0.2, 0.2), colour, "ball", at=at, segments=20, rings=12)
    return shape.mesh(), {"mirror": MIRROR, "plate": SATIN}, CHALK, True


def _bowl() -> Made:
    """Unmodelled: a ball of chalk in a polished dish, which mirrors it and throws light back at it."""
    shape = Shape(main=np.array((0.9, 0.75, 0.6)), stripe=None)
    angle = np.linspace(0.0, 0.42 * np.pi, 13)
    inside = [(float(0.9 * np.sin(a)), float(0.9 - 0.9 * np.cos(a))) for a in angle]
    outside = [(float(0.97 * np.sin(a)), float(0.9 - 0.97 * np.cos(a))) for a in angle[::-1]]
    shape.lathe([*outside[::-1], *inside[::-1]], "main", "dish", segments=48, smooth=True)
    shape.ellipsoid((0.3, 0.3, 0.3), "red", "ball", at=(0, 0, 0.32), segments=28, rings=18)
    return shape.mesh(), {"dish": POLISHED}, CHALK, True


SCENES: dict[str, Callable[[], Made]] = {
    "snowman": _snowman,
    "duck": _duck,
    "robot": _robot,
    "teapot": _teapot,
    "dog": _dog,
    "mirror": _mirror,
    "bowl": _bowl,
}
"""Names of the scenes and how they are made: mesh, surface of each part, surface of all others, unmodelled or not."""
