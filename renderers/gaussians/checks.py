"""What `rasterise` refuses: one error a wrong argument, naming it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from renderers.gaussians import constants
from sds3d.errors import ConfigError, ShapeError, nearest

LENGTH_MIN = 1e-12
"""Shortest quaternion that still names a rotation."""
Named = Iterable[tuple[str, Tensor]]


def check_kinds(named: Named) -> None:
    """Raise ConfigError unless all are floating-point tensors of one dtype on one device (those of the first)."""
    first: Tensor | None = None
    for name, tensor in named:
        if not isinstance(tensor, Tensor):
            given = type(tensor).__name__
            raise ConfigError(f"{name} is of type {given}, but a torch.Tensor is needed. Convert it.", name)
        if first is None:
            first = tensor
            if not tensor.dtype.is_floating_point:
                raise ConfigError(f"{name} is {_short(tensor)}, but floating point is needed. Call .float().", name)
        if tensor.dtype != first.dtype:
            raise ConfigError(
                f"{name} is {_short(tensor)}, but means is {_short(first)}. Convert one of them: all must be the same.",
                name,
            )
        if tensor.device != first.device:
            raise ConfigError(
                f"{name} is on {tensor.device}, but means is on {first.device}. Move one of them: all must be together.",
                name,
            )


def check_shapes(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    sh_degree: int | None,
    backgrounds: Tensor | None,
) -> None:
    """Raise ShapeError for tensors that do not fit together."""
    if means.dim() != 2:
        raise ShapeError("means", "[N, 3]", tuple(means.shape))
    if viewmats.dim() != 3 or viewmats.shape[0] < 1:
        raise ShapeError("viewmats", "[C >= 1, 4, 4]", tuple(viewmats.shape))
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
    tail = 1 if sh_degree is None else 2
    fits = colors.shape[:-tail] in ((count,), (cameras, count)) and (sh_degree is None or colors.shape[-1] == 3)
    if not fits:
        names = "D" if sh_degree is None else "K, 3"
        raise ShapeError("colors", f"[{count}, {names}] or [{cameras}, {count}, {names}]", tuple(colors.shape))
    if backgrounds is not None and backgrounds.shape != (cameras, colors.shape[-1]):
        raise ShapeError("backgrounds", f"[{cameras}, {colors.shape[-1]}]", tuple(backgrounds.shape))


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


def _short(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
