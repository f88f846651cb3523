"""One renderer of a generator's training: draws all objects, for image generators the objects are the pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from renderers.base import Render
from sds3d.cameras import Cameras
from sds3d.config.generator_views import ViewConfig
from sds3d.errors import ConfigError
from sds3d.generators.base import Assets, Latents


def draw_view(
    view: ViewConfig,
    assets: Assets,
    cameras: Cameras,
    background: Tensor,
    generator: torch.Generator,
    step: int,
    total_steps: int,
) -> Render:
    """Return the pictures [B * V, ...] of B objects, object-major, by one renderer with its gradient shrunk as configured.

    generator: CPU generator of the places where rays are sampled.
    Raises: ConfigError for a renderer that cannot draw this kind of object.
    """
    if isinstance(assets, Latents) != (view.kind == "identity"):
        raise ConfigError(
            f"A view of kind '{view.kind}' cannot draw {type(assets).__name__}. Pictures need identity, triplanes volume or "
            "mesh.",
            path="views",
        )
    if isinstance(assets, Latents):
        latents = assets.values.repeat_interleave(len(cameras) // len(assets), dim=0)
        return Render(latents.permute(0, 2, 3, 1), torch.ones_like(latents[:, 0, :, :, None]), is_latent=True)
    if view.kind == "mesh":
        from renderers.triplane_mesh import render_mesh

        return render_mesh(assets, cameras, background, view.mesh, view.shape_share.at(step, total_steps))
    from renderers.triplane import render_volume

    jitter = torch.rand(len(cameras) * cameras.height * cameras.width, generator=generator).to(background.device)
    share = view.colour_share.at(step, total_steps)
    return render_volume(assets, cameras, background, view.volume, jitter, share)


def regularisers(view: ViewConfig, render: Render, step: int, total_steps: int) -> dict[str, Tensor]:
    """Return the weighted loss terms that `view` asks of its own render."""
    terms: dict[str, Tensor] = {}
    for name in ("sparsity", "eikonal"):
        weight = getattr(view, name).at(step, total_steps)
        if weight and name in render.extras:
            terms[name] = weight * render.extras[name]
    return terms
