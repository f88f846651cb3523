"""Binary glTF of a mesh that moves.

The similarity of a motion becomes the animation of a node, the deformation morph targets; both are exact at the frames.
Between two frames a viewer turns along the shortest way about the object's own centre, so frames should be at most
30 degrees apart.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.conventions import WORLD_TO_GLTF
from sds3d.errors import AssetError, ShapeError
from sds3d.export import glb
from sds3d.export.atomic import write_bytes
from sds3d.export.axes import to_gltf_axes
from sds3d.export.mesh import encode_glb
from sds3d.export.moving import keys
from sds3d.export.sketch.gltf import morph_targets
from sds3d.export.sketch.sketch import Motion, rotation_of
from sds3d.meshing.mesh import Mesh, split_at_seams

Values = NDArray[np.float64]


def write_moving_mesh(path: Path | str, mesh: Mesh, motion: Motion) -> Path:
    """Write a mesh that moves as a .glb file and return the path.

    Args:
        mesh: at rest; textures and vertex colours are kept. motion: x = s R (X + D - c) + c + t of its vertices X;
            offsets D are [F, V, 3], or None if it moves as one rigid piece.
    Raises: AssetError if the suffix is not .glb, numbers are not finite, or the file cannot be written; ShapeError if
        the offsets are not of this mesh.
    """
    target = Path(path)
    if target.suffix.lower() != ".glb":
        raise AssetError(
            f"'{target.name}' cannot hold a moving mesh: its suffix is '{target.suffix}'. Give '.glb'.", target
        )
    numbers: list[Values] = [motion.similarity.ravel(), motion.centre, mesh.vertices.ravel().astype(np.float64)]
    if motion.offsets is not None:
        numbers.append(motion.offsets.ravel())
    if not np.isfinite(np.concatenate(numbers)).all():
        raise AssetError(
            f"'{target}' was not written: the motion holds numbers that are not finite. Finite ones are needed: export an "
            "earlier checkpoint.",
            target,
        )
    if motion.offsets is not None and motion.offsets.shape[1:] != mesh.vertices.shape:
        raise ShapeError("motion.offsets", f"[frames, {len(mesh.vertices)}, 3]", motion.offsets.shape)
    return write_bytes(target, encode(mesh, motion))


def encode(mesh: Mesh, motion: Motion) -> bytes:
    """Return the file: the static GLB of the mesh, with targets, nodes and an animation added.

    Up to 60 frames every frame has a target of its own; beyond, the targets are a basis that holds 99.99 % of the squared
    deformation (see `sds3d.export.sketch.gltf.morph_targets`).
    """
    tree, binary = glb.decode(encode_glb(mesh), "mesh.glb")
    more = _Appended(tree, binary)
    weights = _add_targets(more, mesh, motion)
    scale, turn, place, centre = node_keys(motion)
    tree["nodes"] = [
        {"name": "object", "children": [1], "scale": scale[0].tolist(), "rotation": turn[0].tolist(),
         "translation": place[0].tolist()},
        {"name": "mesh", "mesh": 0, "translation": (-centre).tolist()},
    ]  # fmt: skip
    tracks = {"scale": (0, scale), "rotation": (0, turn), "translation": (0, place)}
    tracks = {path: track for path, track in tracks.items() if keys.changes(track[1])}
    if weights is not None:
        tracks["weights"] = (1, weights)
    if tracks:
        _add_animation(more, motion, tracks)
    return more.packed()


def node_keys(motion: Motion) -> tuple[Values, Values, Values, Values]:
    """Return scale [F, 3], rotation xyzw [F, 4] and translation [F, 3] of a node in glTF's axes, and the centre [3].

    The node's child is moved by minus the centre, so that a viewer turns the object about it between frames too.
    """
    axes = np.array(WORLD_TO_GLTF, np.float64)
    turn = keys.turn_keys(motion)
    turn = np.concatenate([turn[:, :3] @ axes.T, turn[:, 3:]], axis=1)
    return keys.scale_keys(motion), turn, (motion.centre + motion.similarity[:, 5:]) @ axes.T, axes @ motion.centre


def positions_at(mesh: Mesh, motion: Motion, frame: int) -> Values:
    """Return [V, 3], the vertices of one frame in our world frame."""
    scale, quat, shift = np.split(motion.similarity[frame], [1, 5])
    moved = mesh.vertices + (0.0 if motion.offsets is None else motion.offsets[frame])
    found: Values = scale * ((moved - motion.centre) @ rotation_of(quat).T) + motion.centre + shift
    return found


class _Appended:
    """A GLB that grows: its JSON tree and its binary chunk."""

    def __init__(self, tree: dict[str, Any], binary: bytes) -> None:
        self.tree, self.chunks, self.size = tree, [binary], len(binary)

    def add(self, values: NDArray[np.floating[Any]], kind: str, target: int | None, has_bounds: bool = False) -> int:
        """Append float32 values as an accessor and return its number."""
        values = np.ascontiguousarray(values, "<f4")
        view = {"buffer": 0, "byteOffset": self.size, "byteLength": values.nbytes}
        self.tree["bufferViews"].append(view if target is None else view | {"target": target})
        entry = {
            "bufferView": len(self.tree["bufferViews"]) - 1,
            "componentType": 5126,
            "count": len(values),
            "type": kind,
        }
        if has_bounds:
            rows = values.reshape(len(values), -1)
            entry |= {"min": rows.min(axis=0).tolist(), "max": rows.max(axis=0).tolist()}
        self.tree["accessors"].append(entry)
        self.chunks.append(values.tobytes())
        self.size += values.nbytes
        return len(self.tree["accessors"]) - 1

    def packed(self) -> bytes:
        """Return the file."""
        self.tree["buffers"] = [{"byteLength": self.size}]
        text = json.dumps(self.tree, separators=(",", ":")).encode("ascii")
        text += b" " * (-len(text) % 4)
        head = struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + self.size)
        chunk = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", self.size, b"BIN\0")
        return b"".join([head, chunk, *self.chunks])


def _add_targets(more: _Appended, mesh: Mesh, motion: Motion) -> Values | None:
    """Add the morph targets and return the weights [F, K], or None if nothing deforms."""
    if motion.offsets is None or not np.abs(motion.offsets).max() > 0.0:
        return None
    # A file's rest shape is frame 0, also where the reference time is another: the targets add the rest's own offset.
    rows = np.arange(len(mesh.vertices)) if mesh.uvs is None else split_at_seams(mesh)[0]
    flat = motion.offsets.reshape(len(motion), -1)
    targets, weights = morph_targets(np.concatenate([np.zeros_like(flat[:1]), flat]))
    kept = np.abs(targets).max(axis=1) > 0.0
    targets, weights = targets[kept], weights[1:, kept]
    primitive = more.tree["meshes"][0]["primitives"][0]
    primitive["targets"] = []
    for target in targets:
        shape = target.reshape(-1, 3)
        there = Mesh((mesh.vertices + shape).astype(np.float32), mesh.faces, mesh.colors)
        position = more.add(to_gltf_axes(shape)[rows], "VEC3", glb.VERTEX_BUFFER, has_bounds=True)
        normal = more.add(to_gltf_axes(there.normals - mesh.normals)[rows], "VEC3", glb.VERTEX_BUFFER)
        primitive["targets"].append({"POSITION": position, "NORMAL": normal})
    more.tree["meshes"][0]["weights"] = weights[0].tolist()
    more.tree["meshes"][0]["extras"] = {"targetNames": [f"shape_{k + 1}" for k in range(len(targets))]}
    return weights


def _add_animation(more: _Appended, motion: Motion, tracks: dict[str, tuple[int, Values]]) -> None:
    """Add linear samplers of every track; a loop ends with its first frame."""
    count = len(motion) + 1 if motion.is_loop else len(motion)
    clock = more.add(np.arange(count) / motion.fps, "SCALAR", None, has_bounds=True)
    outputs = []
    for path, (node, track) in tracks.items():
        values = keys.closed(track, motion)
        flat = path == "weights"
        output = more.add(values.ravel() if flat else values, "SCALAR" if flat else f"VEC{values.shape[1]}", None)
        outputs.append((node, path, output))
    more.tree["animations"] = [keys.linear_animation(clock, outputs)]
