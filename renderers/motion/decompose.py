"""From what a clip shows of an object (mask, depth, flow) to its motion: similarity x (rest + deformation)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from renderers.motion.similarity import Factorised, factorise
from sds3d.cameras import Cameras
from sds3d.errors import ConfigError, ShapeError

FACTORS = tuple(0.65 + 0.00085 * step for step in range(1000))
"""Relative depths that are tried: 0.65 to 1.5. Source: DreamScene4D."""


class Taken(NamedTuple):
    """An object taken out of a clip: `rest` [P, 3], its points in frame 0, and their `motion`."""

    rest: Tensor
    motion: Factorised


def box_of(mask: Tensor) -> Tensor:
    """Return (x0, y0, x1, y1) [4] in pixels of what a mask [H, W] covers. Raises: ConfigError for an empty mask."""
    rows, columns = (mask > 0.5).any(dim=1).nonzero()[:, 0], (mask > 0.5).any(dim=0).nonzero()[:, 0]
    if not len(rows):
        raise ConfigError(
            "The mask of an object is empty, but at least one pixel must be covered. Leave frames without the object out.",
            "mask",
        )
    corners = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return corners.to(torch.get_default_dtype())


def place_in_box(box: Tensor, depth: float | Tensor, camera: Cameras) -> Tensor:
    """Return the point [3] in the world that is seen in the middle of a box [4] at a depth (world units) of one camera.

    Moving an object from the camera's axis at that depth to this point centres it in its box. Source: DreamScene4D's first
    guess of an object's translation. Limits: the middle of a sphere's picture is not the picture of its middle far from
    the axis; the difference is second order in size over depth.
    """
    middle = torch.stack([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])[None].to(camera.cam_to_world)
    return lift(middle, torch.as_tensor(depth).expand(1).to(middle), camera)[0]


def lift(pixels: Tensor, depths: Tensor, camera: Cameras) -> Tensor:
    """Return the points [P, 3] in the world that one camera sees at pixels [P, 2] (x, y) with depths [P]."""
    rays = torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1)
    there = depths[:, None] * (rays @ torch.linalg.inv(camera.intrinsics[0].to(pixels)).T)
    pose = camera.cam_to_world[0].to(pixels)
    return there @ pose[:3, :3].T + pose[:3, 3]


def decompose(masks: Tensor, depths: Tensor, flows: Tensor, cameras: Cameras, has_scale: bool = True) -> Taken:
    """Return the motion of one object that is seen in every frame, relative to its shape in frame 0.

    Pixels of frame 0 are followed along the flow and lifted by the depth; the paths are then split in the gauge
    (`similarity.factorise`), so that `similarity.move` puts them together again. Points whose track leaves the mask are
    left out.

    Args: masks, depths: [F, H, W], depth along the camera's axis. flows: [F - 1, H, W, 2], way in pixels to the next frame.
        cameras: F of them; a camera's own path must be known, for it cannot be told from that of the scene.
    Source: the decomposition of DreamScene4D (camera, object, deformation); solved directly from depth and flow instead of
    by fitting Gaussians. Limits: what is hidden in some frame is lost; as exact as depth and flow are.
    Raises: ConfigError if fewer than four points are seen throughout.
    """
    frames = len(masks)
    if depths.shape != masks.shape or flows.shape != (frames - 1, *masks.shape[1:], 2) or len(cameras) != frames:
        raise ShapeError("flows", f"[{frames - 1}, H, W, 2] for masks and depths [{frames}, H, W]", tuple(flows.shape))
    row, column = (masks[0] > 0.5).nonzero().unbind(dim=1)
    pixels = torch.stack([column, row], dim=1).to(depths) + 0.5
    paths, alive = [lift(pixels, depths[0, row, column], cameras[0:1])], torch.ones(len(pixels), dtype=torch.bool)
    for frame in range(1, frames):
        step, known = _sampled(flows[frame - 1], masks[frame - 1], pixels)
        pixels = pixels + step
        depth, seen = _sampled(depths[frame][..., None], masks[frame], pixels)
        alive = alive & known & seen
        paths.append(lift(pixels, depth[:, 0], cameras[frame : frame + 1]))
    if int(alive.sum()) < 4:
        raise ConfigError(
            f"{int(alive.sum())} points of the object are seen in every frame, but at least 4 are needed. Give complete "
            "masks (amodal completion), or shorter clips.",
            "masks",
        )
    points = torch.stack(paths)[:, alive]
    return Taken(points[0], factorise(points, points[0], has_scale))


def relative_depth(depths: Tensor, masks: Tensor, known: Tensor, reference: int = -1) -> Tensor:
    """Return [K], the factor on the depth of each of K objects that puts them in the order and distances of `known`.

    Scaling an object about the camera multiplies its depth and leaves its picture (`similarity.scale_about`). Each object is
    swept by `FACTORS` against the reference, whose factor is 1; the best has the least mean difference to the known depth
    over both masks. Both are compared as (z - median of the reference) / (90 % - 10 % quantile of the reference), because
    monocular depth is known up to scale and shift.

    Args: depths, masks: [K, H, W], rendered alone. known: [H, W], increasing with distance.
    Source: the recomposition of DreamScene4D. Limits: a reference without any relief of its own has no scale.
    """

    def normalised(image: Tensor, mask: Tensor, of: Tensor) -> Tensor:
        low, middle, high = torch.quantile(of, torch.tensor([0.1, 0.5, 0.9]).to(of))
        return (image[mask] - middle) / (high - low).clamp(min=1e-12)

    covered = masks > 0.5
    base = covered[reference]
    found = []
    for number in range(len(depths)):
        if number == reference % len(depths):
            found.append(1.0)
            continue
        wanted = [normalised(known, mask, known[base]) for mask in (covered[number], base)]
        fixed = (normalised(depths[reference], base, depths[reference][base]) - wanted[1]).abs().sum()
        errors = [
            (normalised(factor * depths[number], covered[number], depths[reference][base]) - wanted[0]).abs().sum()
            + fixed
            for factor in FACTORS
        ]
        found.append(FACTORS[int(torch.stack(errors).argmin())])
    return torch.tensor(found)


def _sampled(values: Tensor, mask: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return bilinear samples [P, C] of values [H, W, C] at pixels [P, 2], and whether all four neighbours are covered."""
    height, width = mask.shape
    place = pixels - 0.5
    low = place.floor()
    share = place - low
    total, covered = torch.zeros(len(pixels), values.shape[-1]).to(values), torch.ones(len(pixels), dtype=torch.bool)
    for y in (0, 1):
        for x in (0, 1):
            column, row = (low + torch.tensor([x, y]).to(low)).long().unbind(dim=1)
            weight = (share[:, 0] if x else 1 - share[:, 0]) * (share[:, 1] if y else 1 - share[:, 1])
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            row, column = row.clamp(0, height - 1), column.clamp(0, width - 1)
            covered &= (inside & (mask[row, column] > 0.5)) | (weight < 1e-6)
            total += weight[:, None] * values[row, column].nan_to_num()
    return total, covered
