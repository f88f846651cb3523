"""Strokes as round tubes: triangles that every program can open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sds3d import bezier
from sds3d.export.sketch.sketch import Sketch, Values
from sds3d.meshing.mesh import Mesh

SIDES, SAMPLES = 8, 24
"""Corners of a ring, and rings a segment."""
_CAP = np.deg2rad([60.0, 30.0])
"""Latitudes of the rings of the half spheres at both ends."""
_COARSER = ((8, 24), (8, 12), (6, 12), (6, 8), (4, 8), (4, 4), (3, 4), (3, 2))


def places_of(sketch: Sketch, frame: int | None, per_segment: int) -> Values:
    """Return [N, P, 3], places along the strokes of a frame; None: of the deformed strokes before any similarity."""
    return sampled(sketch, sketch.points if frame is None else sketch.points_at(frame), per_segment)


def sampled(sketch: Sketch, points: Values, per_segment: int) -> Values:
    """Return [N, P, 3], places along strokes with control points `points` and the weights of `sketch`."""
    weights = None if sketch.weights is None else torch.from_numpy(sketch.weights).log()
    return bezier.sample(torch.from_numpy(points), per_segment, weights).numpy()


def tube_vertices(places: Values, radii: Values, sides: int = SIDES, first: Values | None = None) -> Values:
    """Return [N, V, 3], vertices of tubes: pole, cap rings, body rings, cap rings, pole; `tube_faces` connects them.

    Args:
        places: [N, P, 3] middle lines. radii: [N]. first: [N, 3] where the first corner should point; None: anywhere.
    Rings do not twist: their frames are rotation minimising.
    Source: Wang et al., 2008, "Computation of Rotation Minimizing Frames", double reflection.
    """
    tangents, normals = frames(places, first)
    beside = np.cross(tangents, normals)
    angle = 2.0 * np.pi * np.arange(sides) / sides
    spoke = (
        np.cos(angle)[:, None] * normals[:, :, None] + np.sin(angle)[:, None] * beside[:, :, None]
    )  # [N, P, sides, 3]
    size = radii[:, None, None, None]
    body = places[:, :, None] + size * spoke
    count = len(places)

    def cap(end: int, sign: float, latitudes: Values) -> Values:
        out = sign * tangents[:, end][:, None, None]
        middle = places[:, end][:, None, None]
        rings = middle + size * (
            np.cos(latitudes)[:, None, None] * spoke[:, end][:, None] + np.sin(latitudes)[:, None, None] * out
        )
        return rings.reshape(count, -1, 3)

    start_pole = places[:, 0] - radii[:, None] * tangents[:, 0]
    end_pole = places[:, -1] + radii[:, None] * tangents[:, -1]
    parts = [start_pole[:, None], cap(0, -1.0, _CAP), body.reshape(count, -1, 3), cap(-1, 1.0, _CAP[::-1])]
    return np.concatenate([*parts, end_pole[:, None]], axis=1)


def tube_faces(places: int, sides: int = SIDES) -> NDArray[np.int64]:
    """Return [F, 3], triangles of one tube over `places` places, counter-clockwise seen from outside."""
    rings = places + 2 * len(_CAP)
    corner = np.arange(sides)
    following = (corner + 1) % sides
    low = 1 + sides * np.arange(rings - 1)[:, None]
    a, b, c, d = low + corner, low + following, low + sides + following, low + sides + corner
    body = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    last, pole = 1 + sides * (rings - 1), 1 + sides * rings
    start = np.stack([np.zeros(sides, np.int64), 1 + following, 1 + corner], axis=-1)
    end = np.stack([last + corner, last + following, np.full(sides, pole)], axis=-1)
    return np.concatenate([start, body, end]).astype(np.int64)


def frames(places: Values, first: Values | None = None) -> tuple[Values, Values]:
    """Return unit tangents and normals [N, P, 3] along polylines, the normals turning as little as can be."""
    tangents = np.gradient(places, axis=1)
    size = np.linalg.norm(tangents, axis=2, keepdims=True)
    tangents = np.where(size > 1e-12, tangents / np.maximum(size, 1e-12), [1.0, 0.0, 0.0])
    seed = np.eye(3)[np.abs(tangents[:, 0]).argmin(axis=1)] if first is None else first
    normals = np.empty_like(tangents)
    normals[:, 0] = _across(seed, tangents[:, 0])
    for i in range(places.shape[1] - 1):
        step = places[:, i + 1] - places[:, i]
        normal, tangent = _reflected(normals[:, i], step), _reflected(tangents[:, i], step)
        normals[:, i + 1] = _across(_reflected(normal, tangents[:, i + 1] - tangent), tangents[:, i + 1])
    return tangents, normals


def _reflected(vectors: Values, through: Values) -> Values:
    """Return vectors [N, 3] mirrored at the plane across `through` [N, 3]; unchanged where that is 0."""
    squared = np.maximum((through * through).sum(axis=1, keepdims=True), 1e-30)
    return vectors - 2.0 * (vectors * through).sum(axis=1, keepdims=True) / squared * through


def _across(vectors: Values, tangents: Values) -> Values:
    """Return the unit part of vectors [N, 3] across unit tangents [N, 3]; anything across where there is none."""
    rest = vectors - (vectors * tangents).sum(axis=1, keepdims=True) * tangents
    other = np.eye(3)[np.abs(tangents).argmin(axis=1)]
    other = other - (other * tangents).sum(axis=1, keepdims=True) * tangents
    size = np.linalg.norm(rest, axis=1, keepdims=True)
    rest = np.where(size > 1e-9, rest, other)
    return rest / np.linalg.norm(rest, axis=1, keepdims=True)


def tube_mesh(sketch: Sketch, frame: int = 0, sides: int = SIDES, samples: int = SAMPLES) -> Mesh:
    """Return all strokes of a frame as one mesh of closed tubes with colours at the vertices; opacity is left out."""
    places = places_of(sketch, frame, samples)
    vertices = tube_vertices(places, sketch.half_widths_at(frame), sides)
    faces = tube_faces(places.shape[1], sides)
    count, size = vertices.shape[:2]
    everything = faces + size * np.arange(count)[:, None, None]
    return Mesh(
        vertices=vertices.reshape(-1, 3).astype(np.float32),
        faces=everything.reshape(-1, 3),
        colors=np.repeat(sketch.colours, size, axis=0).astype(np.float32),
    )


def tubes_within(sketch: Sketch, max_faces: int, frame: int = 0) -> Mesh:
    """Return `tube_mesh` with as many sides and rings as `max_faces` allows; the coarsest there is where none fits."""
    segments = (sketch.points.shape[1] - 1) // 3
    for sides, samples in _COARSER:
        if len(sketch) * len(tube_faces(segments * samples + 1, sides)) <= max_faces:
            break
    return tube_mesh(sketch, frame, sides, samples)


def write_obj(path: Path | str, sketch: Sketch) -> list[Path]:
    """Write tubes as OBJ and return the paths; a moving sketch becomes a sequence `name_000.obj`, for OBJ cannot move.

    Raises: AssetError if a file cannot be written.
    """
    from sds3d.export.mesh import write_mesh

    target = Path(path)
    if sketch.motion is None:
        return [write_mesh(target, tube_mesh(sketch))]
    names = [target.with_name(f"{target.stem}_{frame:03d}.obj") for frame in range(sketch.frames)]
    return [write_mesh(name, tube_mesh(sketch, frame)) for frame, name in enumerate(names)]
