"""Binary glTF of a sketch, as tubes or as lines, with its motion.

The similarity of a motion becomes the animation of a node, its deformation morph targets: frame f is the rest shape plus
target f. Beyond `MOST_TARGETS` frames the targets are a basis of fewer shapes. Between two frames a viewer turns along
the shortest way, so keys should be at most 30 degrees apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.spatial.transform import Rotation

from sds3d.conventions import WORLD_TO_GLTF
from sds3d.export import atomic, glb
from sds3d.export.axes import srgb_to_linear
from sds3d.export.moving import keys
from sds3d.export.sketch.sketch import Motion, Sketch, Values, rotation_of
from sds3d.export.sketch.tubes import SAMPLES, frames, sampled, tube_faces, tube_vertices

MOST_TARGETS = 60
ENERGY = 1.0 - 1e-4
"""Share of the squared deformation that a basis keeps."""
_LINES, _TRIANGLES = 1, 4
_BLEND_BELOW = 0.99


def write_glb(path: Path | str, sketch: Sketch, style: Literal["tubes", "lines"] = "tubes") -> Path:
    """Write a sketch and return the path. Raises: AssetError if the file cannot be written."""
    return atomic.write_bytes(path, encode(sketch, style))


def encode(sketch: Sketch, style: Literal["tubes", "lines"] = "tubes") -> bytes:
    """Return the file: tubes as wide as the strokes, or lines of one pixel whose widths are in `extras`.

    The colour is unlit; opacities are alphas of the vertices. A root node turns our +Z up into glTF's +Y up.
    """
    shapes = [_vertices(sketch, style, frame) for frame in range(sketch.frames if _deforms(sketch) else 1)]
    count, size = shapes[0].shape[:2]
    one = tube_faces(sampled(sketch, sketch.points[:1], SAMPLES).shape[1]) if style == "tubes" else _pairs(size)
    indices = (one + size * np.arange(count)[:, None, None]).reshape(-1)
    rgba = np.concatenate([srgb_to_linear(sketch.colours), sketch.opacities[:, None]], axis=1)
    arrays = [
        glb.Array(shapes[0].reshape(-1, 3).astype(np.float32), "VEC3", glb.VERTEX_BUFFER, has_bounds=True),
        glb.Array(np.repeat(rgba, size, axis=0).astype(np.float32), "VEC4", glb.VERTEX_BUFFER),
        glb.Array(indices.astype(np.uint32), "SCALAR", glb.INDEX_BUFFER),
    ]
    primitive: dict[str, Any] = {
        "attributes": {"POSITION": 0, "COLOR_0": 1},
        "indices": 2,
        "mode": _TRIANGLES if style == "tubes" else _LINES,
        "material": 0,
    }
    mesh: dict[str, Any] = {"primitives": [primitive], "extras": {"half_width": sketch.half_widths.tolist()}}
    morph = None
    if len(shapes) > 1:
        moves = np.stack([shape.ravel() - shapes[0].ravel() for shape in shapes])
        targets, morph = morph_targets(moves)
        primitive["targets"] = [{"POSITION": len(arrays) + k} for k in range(len(targets))]
        mesh["weights"] = [0.0] * len(targets)
        mesh["extras"]["targetNames"] = [f"shape_{k + 1}" for k in range(len(targets))]
        for target in targets:
            arrays.append(glb.Array(target.reshape(-1, 3).astype(np.float32), "VEC3", glb.VERTEX_BUFFER, True))
    tracks = [] if sketch.motion is None else _tracks(sketch.motion, morph)
    return _file(sketch, arrays, mesh, tracks)


def morph_targets(moves: Values) -> tuple[Values, Values]:
    """Return targets [K, V] and weights [F, K] with weights @ targets = moves [F, V], whose row 0 is 0.

    Up to `MOST_TARGETS` frames one target a frame: exact. Beyond, the singular vectors that hold `ENERGY` of it.
    """
    if len(moves) <= MOST_TARGETS:
        return moves[1:], np.eye(len(moves))[:, 1:]
    left, sizes, right = np.linalg.svd(moves, full_matrices=False)
    share = np.cumsum(sizes**2) / max(float((sizes**2).sum()), 1e-30)
    kept = int(np.searchsorted(share, ENERGY) + 1)
    scale = sizes[:kept]
    return scale[:, None] * right[:kept], left[:, :kept]


def _file(sketch: Sketch, arrays: list[glb.Array], mesh: dict[str, Any], tracks: list[tuple[str, Values]]) -> bytes:
    """Return the container with its nodes, material and animation."""
    first = len(arrays)
    motion = sketch.motion
    if motion is not None:
        frame_count = len(motion) + 1 if motion.is_loop else len(motion)
        times = np.arange(frame_count, dtype=np.float32) / np.float32(motion.fps)
        arrays.append(glb.Array(times[:, None], "SCALAR", glb.VERTEX_BUFFER, has_bounds=True))
        for _, values in tracks:
            kind = "SCALAR" if values.shape[1] == 1 else f"VEC{values.shape[1]}"
            arrays.append(glb.Array(values.astype(np.float32), kind, glb.VERTEX_BUFFER))
    alpha = "BLEND" if sketch.opacities.min() < _BLEND_BELOW else "OPAQUE"
    turn = Rotation.from_matrix(np.array(WORLD_TO_GLTF)).as_quat().tolist()
    moving: dict[str, Any] = {"mesh": 0, "name": "strokes"}
    if motion is not None:
        moving |= dict(zip(("scale", "rotation", "translation"), (x[0].tolist() for x in _node(motion)), strict=True))
    extra: dict[str, Any] = {
        "nodes": [{"name": "sketch", "rotation": turn, "children": [1]}, moving],
        "meshes": [mesh],
        "materials": [
            {
                "name": "ink",
                "alphaMode": alpha,
                "extensions": {"KHR_materials_unlit": {}},
                "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.9},
            }
        ],
        "extensionsUsed": ["KHR_materials_unlit"],
    }
    if sketch.prompt:
        extra["asset"] = {"version": "2.0", "generator": "sds3d", "extras": {"prompt": sketch.prompt}}
    if tracks:
        outputs = [(1, path, first + 1 + k) for k, (path, _) in enumerate(tracks)]
        extra["animations"] = [keys.linear_animation(first, outputs)]
    extra["bufferViews"] = _views(arrays, first)
    return glb.encode(arrays, mesh["primitives"][0], extra)


def _views(arrays: list[glb.Array], first_track: int) -> list[dict[str, int]]:
    """Return the buffer views of `glb.encode`; those of animations have no target, for they are no vertices."""
    views, start = [], 0
    for index, array in enumerate(arrays):
        view = {"buffer": 0, "byteOffset": start, "byteLength": array.values.nbytes}
        views.append(view if index >= first_track else view | {"target": array.target})
        start += array.values.nbytes
    return views


def _node(motion: Motion) -> tuple[Values, Values, Values]:
    """Return scale [F, 3], rotation xyzw [F, 4] and translation [F, 3] of a node that does what the similarity does."""
    scale, quats = keys.scale_keys(motion), keys.turn_keys(motion)
    turned = np.stack([rotation_of(row) @ motion.centre for row in motion.similarity[:, 1:5]])
    return scale, quats, motion.centre + motion.similarity[:, 5:] - scale * turned


def _tracks(motion: Motion, morph: Values | None) -> list[tuple[str, Values]]:
    """Return (path, keys) of what changes; a loop ends with its first frame."""
    scale, quats, shift = _node(motion)
    found = [("scale", scale), ("rotation", quats), ("translation", shift)]
    found = [(path, keys.closed(track, motion)) for path, track in found if keys.changes(track)]
    if morph is not None:
        found.append(("weights", keys.closed(morph, motion).reshape(-1, 1)))
    return found


def _deforms(sketch: Sketch) -> bool:
    return sketch.motion is not None and sketch.motion.offsets is not None


def _vertices(sketch: Sketch, style: str, frame: int) -> Values:
    """Return [N, V, 3], vertices of a frame before the similarity."""
    places = sampled(sketch, sketch.deformed(frame), SAMPLES)
    if style == "lines":
        return places
    rest = sampled(sketch, sketch.deformed(0), SAMPLES)
    first = frames(rest[:, :2])[1][:, 0]  # corners keep their side of the tube from frame to frame
    return tube_vertices(places, sketch.half_widths, first=first)


def _pairs(places: int) -> Any:
    """Return [P - 1, 2], the pieces of one polyline: strips of several lines cannot share a primitive."""
    return np.stack([np.arange(places - 1), np.arange(1, places)], axis=-1)
