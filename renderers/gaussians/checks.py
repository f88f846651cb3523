"""What `rasterise` refuses: one error a wrong argument, naming it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import torch
from torch import Tensor

from renderers.gaussians import constants
from sds3d.errors import ConfigError, ShapeError, nearest

LENGTH_MIN = 1e-12
"""Shortest quaternion that still names a rotation."""
SHAPES = 256
"""Combinations of arguments that are remembered as good."""
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
    check_kinds(tuple(kinds), sh_degree)


@lru_cache(maxsize=SHAPES)
def check_kinds(kinds: tuple[Kind, ...], sh_degree: int | None) -> None:
    """Raise ConfigError for the first kind of tensor that differs from the first, then check shapes.

    (What has passed is remembered: for a small scene this would take as long as drawing it.)
    """
    _, first_dtype, first_device, _ = kinds[0]
    for name, dtype, device, _ in kinds:
        if not dtype.is_floating_point and name == kinds[0][0]:
            raise ConfigError(f"{name} is {_short(dtype)}, but floating point is needed. Call .float().", name)
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
    """Raise ConfigError for an unknown word or an image without pixels."""
    words = (
        ("render_mode", render_mode, constants.RENDER_MODES),
        ("rasterize_mode", rasterize_mode, constants.RASTERIZE_MODES),
        ("backend", backend, constants.BACKENDS),
    )
    for name, word, allowed in words:
        if word not in allowed:
            raise ConfigError(f"{name} is '{word}', which is unknown. Use {nearest(word, allowed)}.", name)
    if width < 1 or height < 1:
        raise ConfigError(
            f"The image size is {width}x{height}, but both must be at least 1. Give positive pixels.", "width"
        )


@torch.no_grad()
def check_values(named: Named) -> None:
    """Raise ConfigError for the first tensor with a NaN, an infinity, or (quats) a rotation of length 0.

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


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
