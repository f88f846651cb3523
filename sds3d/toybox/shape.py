"""Build an object from primitives: a triangle soup with smooth normals, colours and part names.

Frame of `sds3d.conventions`: +Z up, the object faces +X, its left is +Y. Sizes are free while building; `Shape.mesh`
centres the object by its bounding box and scales its farthest vertex to 0.9 from the origin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sds3d.toybox.palette import ACCENTS

Array = NDArray[np.floating[Any]]
RADIUS = 0.9
"""Distance of the farthest vertex from the origin after normalisation."""


@dataclass
class ToyMesh:
    """A finished object of F triangles.

    Args:
        corners: [F, 3, 3] float32 positions. normals: [F, 3, 3] float32 unit, one a corner.
        colors: [F, 3] float32 sRGB in [0, 1]. stripe_colors: [F, 3], the colour of every second band.
        parts: [F] int16 index into `part_names`. band_height: height of a stripe in world units, 0 without stripes.
    """

    corners: Array
    normals: Array
    colors: Array
    stripe_colors: Array
    parts: NDArray[np.int16]
    part_names: tuple[str, ...]
    band_height: float


def rotation(axis: str, angle_deg: float) -> Array:
    """Return the 3x3 right-handed rotation about "x", "y" or "z"."""
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3, dtype=np.float32)
    matrix[i, i] = matrix[j, j] = c
    matrix[i, j], matrix[j, i] = -s, s
    return matrix


def _grid_faces(points: Array, normals: Array) -> tuple[Array, Array]:
    """Turn a [rows, columns, 3] grid into triangles; degenerate ones (poles) are dropped."""
    a, b, c, d = points[:-1, :-1], points[:-1, 1:], points[1:, 1:], points[1:, :-1]
    na, nb, nc, nd = normals[:-1, :-1], normals[:-1, 1:], normals[1:, 1:], normals[1:, :-1]
    corners = np.concatenate([np.stack(t, axis=2).reshape(-1, 3, 3) for t in ((a, b, c), (a, c, d))])
    shading = np.concatenate([np.stack(t, axis=2).reshape(-1, 3, 3) for t in ((na, nb, nc), (na, nc, nd))])
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    return corners[area > 1e-9], shading[area > 1e-9]


def _flat(corners: Array) -> tuple[Array, Array]:
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal = normal / (np.linalg.norm(normal, axis=1, keepdims=True) + 1e-12)
    return corners, np.repeat(normal[:, None], 3, axis=1)


def _revolve(radius: Array, height: Array, segments: int, smooth: bool) -> tuple[Array, Array]:
    angle = np.linspace(0.0, 2.0 * np.pi, segments + 1)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = np.concatenate(
        [radius[:, None, None] * ring[None], np.broadcast_to(height[:, None, None], (len(radius), len(angle), 1))],
        axis=2,
    )
    if not smooth:
        normals = np.zeros_like(points)
        pieces = []
        for k in range(len(radius) - 1):
            slope = np.array([height[k + 1] - height[k], radius[k] - radius[k + 1]])
            slope = slope / (np.linalg.norm(slope) + 1e-12)
            normal = np.concatenate([slope[0] * ring, np.full((len(ring), 1), slope[1])], axis=1)
            pieces.append(_grid_faces(points[k : k + 2], np.broadcast_to(normal, (2, *normal.shape))))
        return np.concatenate([p[0] for p in pieces]), np.concatenate([p[1] for p in pieces])
    slope = np.stack([np.gradient(height), -np.gradient(radius)], axis=1)
    slope = slope / (np.linalg.norm(slope, axis=1, keepdims=True) + 1e-12)
    normals = np.concatenate(
        [slope[:, :1, None] * ring[None], np.broadcast_to(slope[:, 1:, None], (len(radius), len(angle), 1))], axis=2
    )
    return _grid_faces(points, normals)


@dataclass
class Shape:
    """An object under construction. Every method adds one primitive; `color` is "main" or a name in `palette.ACCENTS`.

    `part` names what a speaker would call it ("handle"); `at` [3] moves the primitive, `turn` 3x3 rotates it first.
    """

    main: Sequence[float] | Array
    stripe: ArrayLike | None = None
    _pieces: list[tuple[Array, Array, str, str]] = field(default_factory=list)

    def _add(self, faces: tuple[Array, Array], color: str, part: str, at: ArrayLike, turn: Array | None) -> None:
        corners, normals = faces
        if turn is not None:
            corners, normals = corners @ turn.T, normals @ turn.T
        self._pieces.append((corners + np.asarray(at, dtype=np.float64), normals, color, part or color))

    def box(
        self,
        size: Sequence[float],
        color: str = "main",
        part: str = "",
        at: ArrayLike = (0, 0, 0),
        turn: Array | None = None,
        taper: Sequence[float] = (1, 1),
    ) -> None:
        """Add a box of `size` (x, y, z) centred at `at`; its top is scaled by `taper` (x, y)."""
        x, y, z = np.asarray(size, dtype=np.float64) / 2
        low = np.array([[-x, -y, -z], [x, -y, -z], [x, y, -z], [-x, y, -z]])
        high = low * [taper[0], taper[1], -1]
        p = np.concatenate([low, high])
        quads = [(0, 3, 2, 1), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7)]
        tris = [(a, b, c) for a, b, c, d in quads] + [(a, c, d) for a, b, c, d in quads]
        corners = p[np.array(tris)]
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        self._add(_flat(corners[area > 1e-12]), color, part, at, turn)

    def lathe(
        self,
        profile: ArrayLike,
        color: str = "main",
        part: str = "",
        at: ArrayLike = (0, 0, 0),
        turn: Array | None = None,
        segments: int = 24,
        smooth: bool = False,
    ) -> None:
        """Add a solid of revolution about z: `profile` is (radius, height) from bottom to top.

        Start and end at radius 0 to close it. `smooth` blends normals along the profile (a vase), else edges stay sharp.
        """
        points = np.asarray(profile, dtype=np.float64)
        self._add(_revolve(points[:, 0], points[:, 1], segments, smooth), color, part, at, turn)

    def ellipsoid(
        self,
        radii: Sequence[float],
        color: str = "main",
        part: str = "",
        at: ArrayLike = (0, 0, 0),
        turn: Array | None = None,
        cut: tuple[float, float] = (-1.0, 1.0),
        segments: int = 20,
        rings: int = 12,
    ) -> None:
        """Add an ellipsoid; `cut` keeps the slab between two heights given as fractions of its z radius (-1..1)."""
        polar = np.linspace(np.arcsin(cut[0]), np.arcsin(cut[1]), rings + 1)
        angle = np.linspace(0.0, 2.0 * np.pi, segments + 1)
        unit = np.stack(
            [
                np.cos(polar)[:, None] * np.cos(angle),
                np.cos(polar)[:, None] * np.sin(angle),
                np.broadcast_to(np.sin(polar)[:, None], (rings + 1, segments + 1)),
            ],
            axis=2,
        )
        scale = np.asarray(radii, dtype=np.float64)
        normals = unit / scale
        normals = normals / np.linalg.norm(normals, axis=2, keepdims=True)
        self._add(_grid_faces(unit * scale, normals), color, part, at, turn)
        for height, sign in ((cut[0], -1.0), (cut[1], 1.0)):
            if abs(height) < 1.0:
                ring = np.sqrt(1.0 - height * height)
                profile = [(0.0, 0.0), (ring, 0.0)] if sign < 0 else [(ring, 0.0), (0.0, 0.0)]
                corners, shading = _revolve(
                    np.array([r for r, _ in profile]), np.array([z for _, z in profile]), segments, False
                )
                lid = corners * [scale[0], scale[1], 0.0] + [0.0, 0.0, height * scale[2]]
                self._add((lid, np.broadcast_to([0.0, 0.0, sign], shading.shape)), color, part, at, turn)

    def rod(
        self,
        start: Sequence[float],
        end: Sequence[float],
        radius: float | tuple[float, float],
        color: str = "main",
        part: str = "",
        segments: int = 14,
    ) -> None:
        """Add a capped cylinder or cone from `start` to `end`; `radius` may differ at the two ends."""
        a, b = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
        r0, r1 = radius if isinstance(radius, tuple) else (radius, radius)
        length = float(np.linalg.norm(b - a))
        axis = (b - a) / max(length, 1e-9)
        helper = np.array([1.0, 0, 0]) if abs(axis[0]) < 0.8 else np.array([0, 1.0, 0])
        side = np.cross(helper, axis)
        side /= np.linalg.norm(side)
        turn = np.stack([np.cross(side, axis), side, axis], axis=1)
        turn[:, 0] *= np.sign(np.linalg.det(turn))
        profile = np.array([(0.0, 0.0), (r0, 0.0), (r1, length), (0.0, length)])
        self._add(_revolve(profile[:, 0], profile[:, 1], segments, False), color, part, a, turn)

    def tube(
        self,
        path: ArrayLike,
        radius: ArrayLike,
        color: str = "main",
        part: str = "",
        segments: int = 10,
    ) -> None:
        """Add a round tube along a polyline `path` [[x, y, z], ...]; `radius` may be one number a point. Ends are open."""
        line = np.asarray(path, dtype=np.float64)
        radii = np.broadcast_to(np.asarray(radius, dtype=np.float64), (len(line),))
        tangent = np.gradient(line, axis=0)
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-12
        side = np.cross(tangent[0], [1.0, 0, 0] if abs(tangent[0][0]) < 0.8 else [0, 1.0, 0])
        rows, shading = [], []
        angle = np.linspace(0.0, 2.0 * np.pi, segments + 1)
        for point, direction, r in zip(line, tangent, radii, strict=True):
            side = side - direction * (side @ direction)
            side /= np.linalg.norm(side) + 1e-12
            other = np.cross(direction, side)
            ring = np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * other
            rows.append(point + r * ring)
            shading.append(ring)
        self._add(_grid_faces(np.stack(rows), np.stack(shading)), color, part, (0, 0, 0), None)

    def arc(
        self,
        radius: float,
        thickness: float,
        start_deg: float,
        end_deg: float,
        color: str = "main",
        part: str = "",
        at: ArrayLike = (0, 0, 0),
        turn: Array | None = None,
        squash: float = 1.0,
    ) -> None:
        """Add a torus arc in the x-z plane (0 degrees = +x, 90 = +z) of ring `radius`; `squash` scales it along z."""
        angle = np.radians(np.linspace(start_deg, end_deg, 17))
        path = np.stack([radius * np.cos(angle), np.zeros_like(angle), squash * radius * np.sin(angle)], axis=1)
        if turn is not None:
            path = path @ turn.T
        self.tube(path + np.asarray(at, dtype=np.float64), thickness, color, part)

    def extrude(
        self,
        outline: Sequence[tuple[float, float]],
        thickness: float,
        color: str = "main",
        part: str = "",
        at: ArrayLike = (0, 0, 0),
        turn: Array | None = None,
    ) -> None:
        """Add a plate: `outline` (x, z) star-shaped about its centroid, counter-clockwise, `thickness` along y, centred."""
        edge = np.asarray(outline, dtype=np.float64)
        centre = edge.mean(axis=0)
        following = np.roll(edge, -1, axis=0)

        def lift(points: Array, y: float) -> Array:
            return np.stack([points[:, 0], np.full(len(points), y), points[:, 1]], axis=1)

        y = thickness / 2
        middle = np.broadcast_to(centre, edge.shape)
        tris = [
            np.stack([lift(middle, -y), lift(edge, -y), lift(following, -y)], axis=1),
            np.stack([lift(middle, y), lift(following, y), lift(edge, y)], axis=1),
            np.stack([lift(edge, -y), lift(edge, y), lift(following, -y)], axis=1),
            np.stack([lift(following, -y), lift(edge, y), lift(following, y)], axis=1),
        ]
        self._add(_flat(np.concatenate(tris)), color, part, at, turn)

    def mesh(self, height_scale: float = 1.0, base: bool = False) -> ToyMesh:
        """Return the finished object, stretched in z by `height_scale`, on a grey disc if `base`, centred and scaled."""
        if base:
            points = np.concatenate([p[0].reshape(-1, 3) for p in self._pieces])
            low, high = points.min(axis=0), points.max(axis=0)
            wide = 0.6 * max(high[0] - low[0], high[1] - low[1], 0.45 * (high[2] - low[2]))
            thick = 0.07 * (high - low).max()
            middle = ((low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2] - thick)
            self.lathe([(0, 0), (wide, 0), (wide, thick), (0, thick)], "grey", "base", at=middle, segments=32)
        corners = np.concatenate([p[0] for p in self._pieces])
        normals = np.concatenate([p[1] for p in self._pieces])
        stretch = np.array([1.0, 1.0, height_scale])
        corners, normals = corners * stretch, normals / stretch
        normals = normals / (np.linalg.norm(normals, axis=2, keepdims=True) + 1e-12)
        low, high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
        height = float(high[2] - low[2])
        corners = corners - (low + high) / 2
        factor = RADIUS / np.linalg.norm(corners.reshape(-1, 3), axis=1).max()
        counts = [len(p[0]) for p in self._pieces]
        colors = [self.main if p[2] == "main" else ACCENTS[p[2]] for p in self._pieces]
        bands = [
            self.stripe if p[2] == "main" and self.stripe is not None else c
            for p, c in zip(self._pieces, colors, strict=True)
        ]
        names = tuple(dict.fromkeys(p[3] for p in self._pieces))
        return ToyMesh(
            corners=(corners * factor).astype(np.float32),
            normals=normals.astype(np.float32),
            colors=np.repeat(np.asarray(colors, dtype=np.float32), counts, axis=0),
            stripe_colors=np.repeat(np.asarray(bands, dtype=np.float32), counts, axis=0),
            parts=np.repeat(np.array([names.index(p[3]) for p in self._pieces], dtype=np.int16), counts),
            part_names=names,
            band_height=height * factor / 7.98 if self.stripe is not None else 0.0,
        )
