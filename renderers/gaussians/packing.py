"""The kernels' records of Gaussians that torch has projected."""

from __future__ import annotations

import torch
from torch import Tensor

from renderers.gaussians.plans import LANES
from renderers.gaussians.projection import Projection


def pack(projection: Projection) -> Tensor:
    """Return the records [C, padded N, 16] of Gaussians that were projected elsewhere."""
    from renderers.gaussians.kernels.projection import HALF_LOG2_E, LEVEL_FACTOR, LEVEL_SLACK, LOG2_LEVELS

    means2d, depths, conics, opacities, radii = (field.detach() for field in projection)
    a, b, c = conics.double().unbind(-1)
    determinant = (a * c - b * b).clamp_min(1e-300)
    slope = (c * HALF_LOG2_E).sqrt()
    log2_opacity = opacities.double().clamp_min(1e-30).log2()
    extent = (((log2_opacity + LOG2_LEVELS).clamp_min(0.0) * LEVEL_FACTOR + LEVEL_SLACK) / HALF_LOG2_E).sqrt()
    half_x, half_y = extent * (c / determinant).sqrt(), extent * (a / determinant).sqrt()
    render = [slope, slope * b / c, HALF_LOG2_E * determinant / c, log2_opacity, depths, opacities]
    columns = [torch.stack([value.float() for value in render], dim=-1), conics]
    columns += [radii.contiguous().view(torch.float32)]
    columns += [torch.stack([half_x, half_y, -b / a * half_y], dim=-1).float()]
    rows = torch.cat([means2d, *columns], dim=-1)
    return torch.nn.functional.pad(rows, (0, 0, 0, -rows.shape[1] % LANES)).contiguous()
