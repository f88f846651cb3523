"""Grids of distance and colour, drawn and judged."""

from __future__ import annotations

import torch
from torch import Tensor

from renderers.triplane import render_field
from renderers.triplane_grid import GridField
from sds3d.cameras import turntable
from sds3d.config.generator_views import VolumeConfig
from sds3d.generators.shape_grids import field_values

DRAWN = VolumeConfig(samples=32, sharpness=40.0, field="grid", keep_surface=False)
AT_ONCE, GREY = 4, 0.5


@torch.no_grad()
def drawn(grids: Tensor, views: int = 4, size: int = 64) -> Tensor:
    """Return pictures [N * views, size, size, 3] of grids [N, 4, z, y, x] on grey, object-major.

    The cameras stand evenly around, the first at 45 degrees.
    """
    cameras = turntable(8 * views, size)[views::8]
    made = []
    for some in field_values(grids).split(AT_ONCE):
        around = cameras[torch.arange(views).repeat(len(some))]
        field = GridField(some, start_radius=0.0)
        made.append(render_field(field, 1.0, around, torch.full((len(around), 3), GREY), DRAWN).rgb)
    return torch.cat(made).clamp(0.0, 1.0)


def named(grids: Tensor, words: Tensor, views: int = 4) -> tuple[Tensor, Tensor]:
    """Return shares [N] of views in which the judge names noun and colour as `words` [N, 2] say, places in the palette."""
    from sds3d.toybox.judge import load_judge

    said = load_judge().verdict(drawn(grids, views))
    pairs = ((said["noun"], words[:, :1]), (said["color"], words[:, 1:]))
    nouns, colours = ((place.view(-1, views) == wanted).float().mean(dim=1) for place, wanted in pairs)
    return nouns, colours
