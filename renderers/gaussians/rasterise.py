"""One call that draws 3D Gaussians, with the arguments of gsplat 1.5.3, on whichever back end suits the tensors."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from renderers.gaussians import constants, cpu, gsplat_backend, reference, sh
from renderers.gaussians.projection import project
from sds3d.errors import BackendError, ConfigError, ShapeError, nearest


def rasterise(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    backgrounds: Tensor | None = None,
    render_mode: str = "RGB",
    rasterize_mode: str = "classic",
    radius_clip: float = 0.0,
    absgrad: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Return images, alphas and the intermediate results that density control needs.

    Args:
        means: [N, 3] world frame. quats: [N, 4] wxyz, any length > 0. scales: [N, 3] standard deviations, world units.
        opacities: [N] in [0, 1].
        colors: [N, D] or [C, N, D] features of any kind; with sh_degree, coefficients [N, K, 3] or [C, N, K, 3].
        viewmats: [C, 4, 4] world to camera, OpenCV axes. Ks: [C, 3, 3] pixels; pixel (i, j) is sampled at (j+.5, i+.5).
        width, height: image size in pixels.
        near_plane, far_plane: Gaussians with centres outside are not drawn. eps2d: px^2 of blur against aliasing.
        sh_degree: 0 to 3, or None when colors are features.
        backgrounds: [C, D] shown where alpha < 1; None is 0. Depth always has background 0.
        render_mode: "RGB" (the features), "D" (sum of weight times camera z), "ED" (that divided by alpha), "RGB+D" and
            "RGB+ED" (depth as the last channel).
        rasterize_mode: "classic", or "antialiased" (thin splats lose the light that the blur gives them).
        radius_clip: splats of at most this radius in pixels are not drawn.
        absgrad: also give meta["means2d"].absgrad, the sum over pixels of |gradient| (AbsGS).
        backend: "reference" (dense torch, any device and dtype), "cpu" (compiled, float32), "gsplat" (CUDA), or "auto":
            gsplat for CUDA tensors and cpu for CPU float32 tensors where available, otherwise reference.

    Returns: colors [C, H, W, X], alphas [C, H, W, 1], meta with means2d [C, N, 2] (its `.grad` is kept), radii, depths,
        conics, opacities, width, height, n_cameras, gaussian_ids (None) and backend.
    Raises: ShapeError, ConfigError for a wrong argument; BackendError if the wanted back end cannot run.
    Source: Kerbl et al., 2023; argument names, rules and thresholds of gsplat 1.5.3 with packed=False.
    Deviations: pinhole cameras, one scene a call, SH up to degree 3; the portable back ends also differentiate cameras.
    Limits: autocast is switched off inside, for positions do not survive 8-bit mantissas.
    """
    _check(means, quats, scales, opacities, colors, viewmats, Ks, width, height, sh_degree)
    _check_options(render_mode, rasterize_mode, backend)
    _check_backgrounds(backgrounds, len(viewmats), colors.shape[-1])
    chosen = choose_backend(backend, means)
    tensors = (means, quats, scales, opacities, colors, viewmats, Ks)
    shared: dict[str, Any] = {
        "near_plane": near_plane,
        "far_plane": far_plane,
        "eps2d": eps2d,
        "radius_clip": radius_clip,
    }
    with _full_precision(means.device.type):
        if chosen == "gsplat":
            modes = {"render_mode": render_mode, "rasterize_mode": rasterize_mode, "absgrad": absgrad}
            more = {"sh_degree": sh_degree, "backgrounds": backgrounds, "width": width, "height": height}
            images, alphas, meta = gsplat_backend.rasterise(*tensors, **shared, **modes, **more)
            return images, alphas, {**meta, "backend": chosen}
        antialiased = rasterize_mode == "antialiased"
        projection = project(*tensors[:4], viewmats, Ks, width, height, antialiased=antialiased, **shared)
        if projection.means2d.requires_grad:
            projection.means2d.retain_grad()
        features = _features(colors, means, viewmats, projection.depths, sh_degree, render_mode)
        back_end = cpu if chosen == "cpu" else reference
        images, alphas = back_end.composite(projection, features, width, height, absgrad)
        images = _finish(images, alphas, backgrounds, render_mode)
    sizes = {"width": width, "height": height, "n_cameras": len(viewmats), "gaussian_ids": None, "backend": chosen}
    return images, alphas, {**projection._asdict(), **sizes}


def choose_backend(backend: str, means: Tensor) -> str:
    """Return the back end that draws `means`; raise BackendError if the one asked for cannot."""
    kind = means.device.type
    if backend == "auto":
        if kind == "cuda" and gsplat_backend.probe() == "available":
            return "gsplat"
        is_fast = kind == "cpu" and means.dtype == torch.float32 and cpu.probe() == "available"
        return "cpu" if is_fast else "reference"
    if backend in ("cpu", "gsplat"):
        state = (cpu if backend == "cpu" else gsplat_backend).probe()
        if state != "available":
            raise BackendError(f"Rasteriser '{backend}' cannot run here: {state}. Or use backend='auto'.")
        wanted = "cpu" if backend == "cpu" else "cuda"
        if kind != wanted or means.dtype != torch.float32:
            given = f"{str(means.dtype).removeprefix('torch.')} tensors on {kind}"
            raise BackendError(
                f"Rasteriser '{backend}' was given {given}, but needs float32 on {wanted}. "
                "Use backend='reference' or move them."
            )
    return backend


def available_backends() -> dict[str, str]:
    """Return, for each back end, "available" or the reason it is not and the fix."""
    return {"reference": "available", "cpu": cpu.probe(), "gsplat": gsplat_backend.probe()}


def _features(
    colors: Tensor, means: Tensor, viewmats: Tensor, depths: Tensor, sh_degree: int | None, render_mode: str
) -> Tensor:
    """Return the [C, N, X] channels to blend."""
    if render_mode in ("D", "ED"):
        return depths[..., None]
    if sh_degree is not None:
        colors = sh.evaluate(colors, means, viewmats, sh_degree)
    colors = colors.expand(len(viewmats), *colors.shape[-2:])
    return colors if render_mode == "RGB" else torch.cat([colors, depths[..., None]], dim=-1)


def _finish(images: Tensor, alphas: Tensor, backgrounds: Tensor | None, render_mode: str) -> Tensor:
    """Add the background to the colours and divide expected depths by alpha."""
    depth = images[..., -1:] if render_mode != "RGB" else None
    colors = images if depth is None else images[..., :-1]
    if backgrounds is not None and colors.shape[-1]:
        colors = colors + (1.0 - alphas) * backgrounds[:, None, None]
    if depth is None:
        return colors
    if "ED" in render_mode:
        depth = depth / alphas.clamp_min(constants.DEPTH_ALPHA_MIN)
    return torch.cat([colors, depth], dim=-1)


def _full_precision(device: str) -> AbstractContextManager[Any]:
    """Return a context without autocast, where the device knows autocast at all."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _check(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    sh_degree: int | None,
) -> None:
    """Raise ShapeError or ConfigError for tensors and sizes that do not fit together."""
    count, cameras = means.shape[0], viewmats.shape[0]
    expected = (
        ("means", means, (count, 3)),
        ("quats", quats, (count, 4)),
        ("scales", scales, (count, 3)),
        ("opacities", opacities, (count,)),
        ("viewmats", viewmats, (cameras, 4, 4)),
        ("Ks", Ks, (cameras, 3, 3)),
    )
    for name, tensor, shape in expected:
        if tensor.shape != shape:
            raise ShapeError(name, str(list(shape)), tuple(tensor.shape))
    features = ["D"] if sh_degree is None else ["K", "3"]
    tail = len(features)
    shape_fits = colors.shape[:-tail] in ((count,), (cameras, count)) and (sh_degree is None or colors.shape[-1] == 3)
    if not shape_fits:
        names = ", ".join(features)
        raise ShapeError("colors", f"[{count}, {names}] or [{cameras}, {count}, {names}]", tuple(colors.shape))
    if width < 1 or height < 1:
        raise ConfigError(
            f"The image size is {width}x{height}, but both must be at least 1. Give positive pixels.", "width"
        )


def _check_backgrounds(backgrounds: Tensor | None, cameras: int, channels: int) -> None:
    """Raise ShapeError unless there is one background of `channels` values a camera."""
    if backgrounds is not None and backgrounds.shape != (cameras, channels):
        raise ShapeError("backgrounds", f"[{cameras}, {channels}]", tuple(backgrounds.shape))


def _check_options(render_mode: str, rasterize_mode: str, backend: str) -> None:
    """Raise ConfigError for an unknown word."""
    words = (
        ("render_mode", render_mode, constants.RENDER_MODES),
        ("rasterize_mode", rasterize_mode, constants.RASTERIZE_MODES),
        ("backend", backend, constants.BACKENDS),
    )
    for name, word, allowed in words:
        if word not in allowed:
            raise ConfigError(f"{name} is '{word}', which is unknown. Use {nearest(word, allowed)}.", name)
