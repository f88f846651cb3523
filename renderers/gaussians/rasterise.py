"""One call that draws 3D Gaussians, with the arguments of gsplat 1.5.3, on whichever back end suits the tensors."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from renderers.gaussians import checks, constants, cpu, gsplat_backend, reference, sh
from renderers.gaussians.projection import Projection, project
from sds3d.errors import BackendError

THRESHOLDS = ("near_plane", "far_plane", "eps2d", "radius_clip", "antialiased")
PROJECTED = ("means", "quats", "scales", "opacities", "viewmats", "Ks")


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
        near_plane, far_plane: Gaussians with centres outside are not drawn; near_plane is above 0. eps2d: px^2 of blur
            against aliasing, 0 or more.
        sh_degree: 0 to 3, or None when colors are features.
        backgrounds: [C, D] shown where alpha < 1; None is 0. Depth always has background 0.
        render_mode: "RGB" (the features), "D" (sum of weight times camera z), "ED" (that divided by alpha), "RGB+D" and
            "RGB+ED" (depth as the last channel).
        rasterize_mode: "classic", or "antialiased" (thin splats lose the light that the blur gives them).
        radius_clip: splats of at most this radius in pixels are not drawn.
        absgrad: also give meta["means2d"].absgrad, the sum over pixels of |gradient| (AbsGS).
        backend: "reference" (dense torch, any device, float32 or float64), "cpu" (compiled, float32), "gsplat" (CUDA),
            or "auto": gsplat for CUDA and cpu for CPU float32 tensors where available, otherwise reference.

    Returns: colors [C, H, W, X], alphas [C, H, W, 1], meta with means2d [C, N, 2] (its `.grad` is kept), radii, depths,
        conics, opacities, width, height, n_cameras, gaussian_ids (None) and backend.
    Raises: ShapeError, ConfigError for a wrong argument, among them NaN, infinities, quaternions of length 0, cameras
        without a focal length or a direction of sight; BackendError if the wanted back end cannot run. Values are
        looked at on the CPU only: on another device that would make the program wait for it.
    Source: Kerbl et al., 2023; argument names, rules and thresholds of gsplat 1.5.3 with packed=False.
    Deviations: pinhole cameras, one scene a call, SH up to degree 3; the portable back ends also differentiate cameras
        (which costs "cpu" its fast projection).
    Limits: autocast is switched off inside, for positions do not survive 8-bit mantissas.
    """
    inputs = {"means": means, "quats": quats, "scales": scales, "opacities": opacities, "colors": colors}
    inputs["viewmats"], inputs["Ks"] = viewmats, Ks
    if backgrounds is not None:
        inputs["backgrounds"] = backgrounds
    checks.check_tensors(inputs, sh_degree)
    view = _view(width, height, render_mode, rasterize_mode, absgrad, backend)
    thresholds = _thresholds(near_plane, far_plane, eps2d, radius_clip, rasterize_mode == "antialiased")
    chosen = choose_backend(backend, means)
    with _full_precision(means.device.type):
        if chosen == "gsplat":
            shared = dict(zip(THRESHOLDS[:-1], thresholds, strict=False))
            modes = {"render_mode": render_mode, "rasterize_mode": rasterize_mode, "absgrad": absgrad}
            more = {"sh_degree": sh_degree, "backgrounds": backgrounds, "width": width, "height": height}
            images, alphas, meta = gsplat_backend.rasterise(*list(inputs.values())[:7], **shared, **modes, **more)
            return images, alphas, {**meta, "backend": chosen}
        draw = _draw_compiled if chosen == "cpu" else _draw_reference
        has_colors = render_mode not in ("D", "ED")
        images, alphas, projection = draw(inputs, view, thresholds, sh_degree, has_colors)
    meta = dict(zip(projection._fields, projection, strict=True))
    meta["width"], meta["height"], meta["n_cameras"] = width, height, viewmats.shape[0]
    meta["gaussian_ids"], meta["backend"] = None, chosen
    return images, alphas, meta


@lru_cache(maxsize=checks.SHAPES)
def _view(width: int, height: int, render_mode: str, rasterize_mode: str, absgrad: bool, backend: str) -> cpu.View:
    """Return what to draw; raise ConfigError for an unknown word or a size that is no number of pixels."""
    checks.check_options(width, height, render_mode, rasterize_mode, backend)
    return cpu.View(int(width), int(height), render_mode != "RGB", "ED" in render_mode, bool(absgrad))


@lru_cache(maxsize=checks.SHAPES)
def _thresholds(
    near_plane: float, far_plane: float, eps2d: float, radius_clip: float, antialiased: bool
) -> cpu.Thresholds:
    """Return the thresholds as plain numbers; raise ConfigError for one with which nothing could be drawn."""
    checks.check_thresholds(near_plane, far_plane, eps2d, radius_clip)
    return float(near_plane), float(far_plane), float(eps2d), float(radius_clip), antialiased


def _draw_compiled(
    inputs: dict[str, Tensor], view: cpu.View, thresholds: cpu.Thresholds, sh_degree: int | None, has_colors: bool
) -> tuple[Tensor, Tensor, Projection]:
    """Return images, alphas and the 2D Gaussians, by the compiled kernels."""
    tensors = [inputs[name] for name in PROJECTED]
    features = _features(inputs, sh_degree) if has_colors else inputs["colors"].new_empty(len(tensors[0]), 0)
    backgrounds = inputs.get("backgrounds") if has_colors else None
    is_fixed = backgrounds is None or not backgrounds.requires_grad
    behind = backgrounds if is_fixed else None
    if inputs["viewmats"].requires_grad or inputs["Ks"].requires_grad:  # only the torch projection differentiates them
        checks.check_values(inputs.items())
        projection = project(*tensors, view.width, view.height, **_named(thresholds))
        projection.means2d.retain_grad()
        images, alphas = cpu.composite(projection, features, view, behind)
    else:
        looked_at = (inputs["colors"], inputs.get("backgrounds"))
        check = partial(checks.check_values, inputs.items())
        images, alphas, projection = cpu.render(tensors, features, view, thresholds, behind, looked_at, check)
    if not is_fixed:
        images = _on_background(images, alphas, backgrounds)
    return images, alphas, projection


def _draw_reference(
    inputs: dict[str, Tensor], view: cpu.View, thresholds: cpu.Thresholds, sh_degree: int | None, has_colors: bool
) -> tuple[Tensor, Tensor, Projection]:
    """Return images, alphas and the 2D Gaussians, by dense torch."""
    if inputs["means"].device.type == "cpu":
        checks.check_values(inputs.items())
    tensors = [inputs[name] for name in PROJECTED]
    projection = project(*tensors, view.width, view.height, **_named(thresholds))
    if projection.means2d.requires_grad:
        projection.means2d.retain_grad()
    depths = projection.depths[..., None]
    features = depths
    if has_colors:
        features = _features(inputs, sh_degree).expand(*depths.shape[:2], -1)
        features = torch.cat([features, depths], dim=-1) if view.with_depth else features
    images, alphas = reference.composite(projection, features, view.width, view.height, view.absgrad)
    if view.expected:
        depth = images[..., -1:] / alphas.clamp_min(constants.DEPTH_ALPHA_MIN)
        images = torch.cat([images[..., :-1], depth], dim=-1)
    if has_colors and "backgrounds" in inputs:
        images = _on_background(images, alphas, inputs["backgrounds"])
    return images, alphas, projection


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


def _named(thresholds: cpu.Thresholds) -> dict[str, Any]:
    return dict(zip(THRESHOLDS, thresholds, strict=True))


def _features(inputs: dict[str, Tensor], sh_degree: int | None) -> Tensor:
    """Return the [N, D] or [C, N, D] features to blend."""
    if sh_degree is None:
        return inputs["colors"]
    return sh.evaluate(inputs["colors"], inputs["means"], inputs["viewmats"], sh_degree)


def _on_background(images: Tensor, alphas: Tensor, backgrounds: Tensor) -> Tensor:
    """Return the images with backgrounds [C, D] behind their first D channels."""
    channels = backgrounds.shape[-1]
    colors = images[..., :channels] + (1.0 - alphas) * backgrounds[:, None, None]
    return torch.cat([colors, images[..., channels:]], dim=-1)


@cache
def _knows_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device)


def _full_precision(device: str) -> AbstractContextManager[Any]:
    """Return a context without autocast; none is entered where autocast is unknown or off."""
    is_on = _knows_autocast(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if is_on else nullcontext()
