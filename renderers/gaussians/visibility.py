"""Which light reaches a place past the object itself: a grid of spherical harmonics, baked once from the Gaussians."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from renderers.gaussians.rasterise import rasterise
from sds3d.shading.directions import cube_directions, cube_solid_angles
from sds3d.shading.sh import basis

DEGREE = 2
FACE, BLUR_PX2 = 12, 0.05
"""Pixels along an edge of the cube of pictures that each cell takes, and their blur against aliasing: less than usual, for
many blurred rims behind each other are opaque well beyond the true one."""
SHRINK, NEAR = 0.6, 0.03
"""Factor on the sizes of Gaussians, and the distance within which they are left out, world units. Splatting linearises the
perspective, so Gaussians that are large as seen from near by, or beside the camera, reach across the horizon of their wall."""
OPEN = 0.15
"""A cell that sees less of the sky than this lies inside the object: its neighbours speak for it."""
_CHUNK = 128


class Visibility(nn.Module):
    """A grid of visibilities over the cube of half edge `half` about the origin.

    Buffers: `coefficients` [R, R, R, 9] (z, y, x), zeros before the bake; `is_open` [R, R, R, 1] in {0, 1}. `is_baked`
    is kept in checkpoints too.
    Source: Ye et al. 2024: opacity splatted from each cell, projected to harmonics, then frozen. Deviations: cells inside
    the object are left out of interpolation, and places are asked one cell above the surface.
    """

    coefficients: Tensor
    is_open: Tensor

    def __init__(self, cells: int, half: float) -> None:
        super().__init__()
        self.cells, self.half = cells, half
        self.register_buffer("coefficients", torch.zeros(cells, cells, cells, (DEGREE + 1) ** 2))
        self.register_buffer("is_open", torch.zeros(cells, cells, cells, 1))
        self.is_baked = False

    def get_extra_state(self) -> dict[str, bool]:
        """Return what a checkpoint holds beside the buffers."""
        return {"is_baked": self.is_baked}

    def set_extra_state(self, state: dict[str, bool]) -> None:
        """Take over what `get_extra_state` returned."""
        self.is_baked = bool(state["is_baked"])

    @property
    def centres(self) -> Tensor:
        """[R^3, 3] centres of the cells, world frame, x fastest."""
        line = ((torch.arange(self.cells) + 0.5) / self.cells * 2.0 - 1.0) * self.half
        z, y, x = torch.meshgrid(line, line, line, indexing="ij")
        return torch.stack([x, y, z], dim=-1).view(-1, 3).to(self.coefficients.device)

    @torch.no_grad()
    def bake(self, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, backend: str = "auto") -> None:
        """Fill the grid from Gaussians (activated values as `rasterise` takes them). Cells far from all of them see all."""
        centres, whole = self.centres, self.coefficients.new_zeros((DEGREE + 1) ** 2)
        whole[0] = 2.0 * math.sqrt(math.pi)
        coefficients = whole.expand(len(centres), -1).clone()
        rows = self._near(centres, means, opacities).nonzero()[:, 0]
        for some in rows.split(_CHUNK):
            coefficients[some] = probe(centres[some], means, quats, scales, opacities, backend)
        share = coefficients[:, 0] / whole[0]
        shape = (self.cells, self.cells, self.cells, -1)
        self.coefficients.copy_(coefficients.view(shape))
        self.is_open.copy_((share > OPEN).to(coefficients).view(shape))
        self.is_baked = True

    def _near(self, centres: Tensor, means: Tensor, opacities: Tensor) -> Tensor:
        """Return the mask [R^3] of cells within two cells of a Gaussian that can be seen."""
        place = ((means[opacities > 0.05] / self.half + 1.0) * 0.5 * self.cells).floor().long()
        place = place[((place >= 0) & (place < self.cells)).all(dim=1)]
        near = centres.new_zeros(1, 1, self.cells, self.cells, self.cells)
        near[0, 0, place[:, 2], place[:, 1], place[:, 0]] = 1.0
        return nn.functional.max_pool3d(near, 5, 1, 2).flatten() > 0

    def at(self, position: Tensor, normal: Tensor) -> Tensor:
        """Return the harmonics [..., 9] of the visibility at surface points [..., 3] with unit normals [..., 3].

        No gradient flows to the places: shading must not move them.
        """
        above = (position + normal * (2.0 * self.half / self.cells)).detach()
        grid = torch.cat([self.coefficients * self.is_open, self.is_open], dim=-1).permute(3, 0, 1, 2)[None]
        place = (above / self.half).reshape(1, 1, 1, -1, 3)
        found = nn.functional.grid_sample(grid, place, align_corners=False, padding_mode="border")[0, :, 0, 0].T
        known = found[:, -1:]
        whole = torch.zeros_like(found[:, :-1])
        whole[:, 0] = 2.0 * math.sqrt(math.pi)
        mixed = torch.where(known > 1e-3, found[:, :-1] / known.clamp_min(1e-3), whole)
        return mixed.view(*position.shape[:-1], -1)


@torch.no_grad()
def probe(
    places: Tensor, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, backend: str = "auto"
) -> Tensor:
    """Return the harmonics [P, 9] of how much of the sky `places` [P, 3] see past the Gaussians."""
    viewmats, intrinsics = _face_cameras(places)
    colours = means.new_zeros(len(means), 1)
    drawn = (means, quats, SHRINK * scales, opacities, colours, viewmats, intrinsics, FACE, FACE)
    _, alphas, _ = rasterise(*drawn, eps2d=BLUR_PX2, near_plane=NEAR, backend=backend)
    # Faces of a cube map are seen from inside: their pictures are mirrored ones.
    seen = 1.0 - alphas[..., 0].flip(-1).view(len(places), -1)
    weight = cube_solid_angles(FACE).flatten().to(seen)[:, None]
    return seen @ (basis(cube_directions(FACE).view(-1, 3).to(seen), DEGREE) * weight)


def _face_cameras(places: Tensor) -> tuple[Tensor, Tensor]:
    """Return world-to-camera [6 P, 4, 4] and intrinsics [6 P, 3, 3] of the six faces around each place."""
    direction = cube_directions(2).to(places)  # [6, 2, 2, 3]: corners of each face tell its axes
    ahead = nn.functional.normalize(direction.mean(dim=(1, 2)), dim=-1)
    down = nn.functional.normalize(direction[:, 1].mean(dim=1) - direction[:, 0].mean(dim=1), dim=-1)
    rotation = torch.stack([torch.linalg.cross(down, ahead, dim=-1), down, ahead], dim=1)  # rows: x, y, z of the camera
    matrix = torch.zeros(len(places), 6, 4, 4).to(places)
    matrix[..., :3, :3] = rotation
    matrix[..., :3, 3] = -(rotation[None] @ places[:, None, :, None])[..., 0]
    matrix[..., 3, 3] = 1.0
    row = [[0.5 * FACE, 0.0, 0.5 * FACE], [0.0, 0.5 * FACE, 0.5 * FACE], [0.0, 0.0, 1.0]]
    return matrix.view(-1, 4, 4), torch.tensor(row).to(places).expand(6 * len(places), 3, 3)
