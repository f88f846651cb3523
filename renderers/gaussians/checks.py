"""What `rasterise` refuses: one error a wrong argument, naming it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from renderers.gaussians import constants, sh
from sds3d.errors import ConfigError, ShapeError, nearest

LENGTH_MIN = 1e-12
"""Shortest quaternion that still names a rotation."""
SHAPES = 256
"""Combinations of arguments that are remembered as good."""
DTYPES = (torch.float32, torch.float64)
"""Shorter floats do not tell neighbouring pixels apart."""
Named = Iterable[tuple[str, Tensor]]
Kind = tuple[str, torch.dtype, torch.device, torch.Size]


def check_tensors(inputs: dict[str, Tensor], sh_degree: int | None) -> None:
    """Raise ConfigError unless all inputs of `rasterise` are floating-point tensors of one dtype on one device (those of
    means), and ShapeError if they do not fit together."""
    kinds = []
    for name, tensor in inputs.items():
        if not isinstance(tensor, Tensor):
            given = type(tensor).__name__
            raise ConfigError(f"{name} is of type {given}, but a torch.Tensor is needed. Convert it.", name)
        kinds.append((name, tensor.dtype, tensor.device, tensor.shape))
    if sh_degree is not None:
        check_degree(sh_degree)
    check_kinds(tuple(kinds), sh_degree)


@lru_cache(maxsize=SHAPES)
def check_kinds(kinds: tuple[Kind, ...], sh_degree: int | None) -> None:
    """Raise ConfigError for the first kind of tensor that differs from the first, then check shapes.

    (What has passed is remembered: for a small scene this would take as long as drawing it.)
    """
    _, first_dtype, first_device, _ = kinds[0]
    for name, dtype, device, _ in kinds:
        if dtype not in DTYPES and name == kinds[0][0]:
            raise ConfigError(f"{name} is {_short(dtype)}, but float32 or float64 is needed. Call .float().", name)
        if dtype != first_dtype:
            raise ConfigError(
                f"{name} is {_short(dtype)}, but means is {_short(first_dtype)}. Convert one of them: all must be the "
                "same.",
                name,
            )
        if device != first_device:
            raise ConfigError(
                f"{name} is on {device}, but means is on {first_device}. Move one of them: all must be together.", name
            )
    check_shapes({name: shape for name, _, _, shape in kinds}, sh_degree)


def check_shapes(shapes: dict[str, torch.Size], sh_degree: int | None) -> None:
    """Raise ShapeError for shapes that do not fit together."""
    means, viewmats, colors = shapes["means"], shapes["viewmats"], shapes["colors"]
    if len(means) != 2:
        raise ShapeError("means", "[N, 3]", means)
    if len(viewmats) != 3 or viewmats[0] < 1:
        raise ShapeError("viewmats", "[C >= 1, 4, 4]", viewmats)
    count, cameras = means[0], viewmats[0]
    expected = (
        ("means", (count, 3)),
        ("quats", (count, 4)),
        ("scales", (count, 3)),
        ("opacities", (count,)),
        ("viewmats", (cameras, 4, 4)),
        ("Ks", (cameras, 3, 3)),
    )
    for name, shape in expected:
        if shapes[name] != shape:
            raise ShapeError(name, str(list(shape)), shapes[name])
    tail = 1 if sh_degree is None else 2
    fits = colors[:-tail] in ((count,), (cameras, count)) and (sh_degree is None or colors[-1] == 3)
    if not fits:
        names = "D" if sh_degree is None else "K, 3"
        raise ShapeError("colors", f"[{count}, {names}] or [{cameras}, {count}, {names}]", colors)
    if shapes.get("backgrounds", (cameras, colors[-1])) != (cameras, colors[-1]):
        raise ShapeError("backgrounds", f"[{cameras}, {colors[-1]}]", shapes["backgrounds"])


def check_options(width: int, height: int, render_mode: str, rasterize_mode: str, backend: str) -> None:
    """Raise ConfigError for an unknown word, or an image size that is no number of pixels."""
    words = (
        ("render_mode", render_mode, constants.RENDER_MODES),
        ("rasterize_mode", rasterize_mode, constants.RASTERIZE_MODES),
        ("backend", backend, constants.BACKENDS),
    )
    for name, word, allowed in words:
        if word not in allowed:
            raise ConfigError(f"{name} is '{word}', which is unknown. Use {nearest(str(word), allowed)}.", name)
    for name, size in (("width", width), ("height", height)):
        if not isinstance(size, Integral):
            raise ConfigError(f"{name} is {size!r}, but a whole number of pixels is needed. Call int().", name)
    if width < 1 or height < 1:
        raise ConfigError(
            f"The image size is {width}x{height}, but both must be at least 1. Give positive pixels.", "width"
        )


def check_degree(sh_degree: Any) -> None:
    """Raise ConfigError unless it is a degree that is supported."""
    if not isinstance(sh_degree, Integral) or not 0 <= sh_degree <= sh.DEGREE_MAX:
        raise ConfigError(
            f"sh_degree is {sh_degree!r}, but 0 to {sh.DEGREE_MAX}, or None for plain features, is supported. Use one of "
            "these.",
            "sh_degree",
        )


def check_thresholds(near_plane: float, far_plane: float, eps2d: float, radius_clip: float) -> None:
    """Raise ConfigError for a threshold that is no number, or with which nothing could be drawn.

    (A comparison with NaN is false, so the picture would be black.)
    """
    thresholds = (
        ("near_plane", near_plane, "above 0 (Gaussians there would be infinitely large)"),
        ("far_plane", far_plane, "0 or more"),
        ("eps2d", eps2d, "0 or more and finite"),
        ("radius_clip", radius_clip, "0 or more"),
    )
    for name, value, allowed in thresholds:
        if not isinstance(value, Real):
            raise ConfigError(f"{name} is of type {type(value).__name__}, but a number is needed. Call float().", name)
        fits = value > 0 if name == "near_plane" else value >= 0
        if not fits or (name == "eps2d" and math.isinf(value)):
            raise ConfigError(f"{name} is {value}, but must be {allowed}. Leave it out for the default.", name)


@torch.no_grad()
def check_values(named: Named) -> None:
    """Raise ConfigError for the first tensor with a NaN, an infinity, (quats) a rotation of length 0, or a camera that
    cannot see: no focal length (Ks), no direction of sight (viewmats).

    Looks at every value: for tensors on the CPU, and for finding out what a kernel has objected to.
    """
    for name, tensor in named:
        finite = torch.isfinite(tensor)
        if not finite.all():
            place = tuple((~finite).nonzero()[0].tolist())
            raise ConfigError(
                f"{name} is {float(tensor[place])} at {list(place)} ({int((~finite).sum())} such values), but every value "
                "must be finite. Look for the step that made it so: a learning rate too high, or a division by zero.",
                name,
            )
        if name == "quats" and len(tensor):
            lengths = torch.linalg.vector_norm(tensor, dim=-1)
            if lengths.min() < LENGTH_MIN:
                raise ConfigError(
                    f"quats has length {float(lengths.min()):g} at [{int(lengths.argmin())}], but a rotation needs a "
                    "length above 0. Use 1, 0, 0, 0 for no rotation.",
                    name,
                )
        if name in ("Ks", "viewmats"):
            _check_cameras(name, tensor)


def _check_cameras(name: str, tensor: Tensor) -> None:
    """Raise ConfigError for a camera whose picture would be black, whatever there is to see."""
    if name == "Ks":
        sees, what = (tensor[:, [0, 1], [0, 1]] > 0).all(dim=-1), "a focal length of 0 or below"
        fix = "above 0, in pixels. Scale intrinsics given for images of size 1 by width and height."
    else:
        sees, what = (tensor[:, 2, :3] != 0).any(dim=-1), "a rotation whose third row is 0"
        fix = "a direction of sight. Give world-to-camera matrices."
    if not sees.all():
        raise ConfigError(f"{name} has {what} in camera {int((~sees).nonzero()[0])}, but needs {fix}", name)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
