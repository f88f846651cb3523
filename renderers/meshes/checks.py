"""What the mesh functions refuse: one error a wrong argument, naming it."""

from __future__ import annotations

import torch
from torch import Tensor

from sds3d.errors import ConfigError, ShapeError, nearest

BACKENDS = ("auto", "reference", "cpu", "nvdiffrast", "pytorch3d")


def check_mesh(clip: Tensor, faces: Tensor) -> None:
    """Raise ShapeError or ConfigError unless clip is floating point [B, V, 4] and faces int64 [F, 3] on its device."""
    if clip.dim() != 3 or clip.shape[-1] != 4:
        raise ShapeError("clip", "[B, V, 4]", tuple(clip.shape))
    if not clip.dtype.is_floating_point:
        raise ConfigError(f"clip is {_short(clip)}, but floating point is needed. Call .float().", "clip")
    check_faces(faces, clip)


def check_faces(faces: Tensor, beside: Tensor) -> None:
    """Raise ShapeError or ConfigError unless faces is int64 [F, 3] on the device of `beside`."""
    if faces.dim() != 2 or faces.shape[-1] != 3:
        raise ShapeError("faces", "[F, 3]", tuple(faces.shape))
    if faces.dtype != torch.int64:
        raise ConfigError(f"faces is {_short(faces)}, but int64 is needed. Call .long().", "faces")
    if faces.device != beside.device:
        raise ConfigError(
            f"faces is on {faces.device}, but the vertices are on {beside.device}. Move one of them: all must be together.",
            "faces",
        )


def check_options(height: int, width: int, backend: str) -> None:
    """Raise ConfigError for an image without pixels or an unknown back end."""
    if backend not in BACKENDS:
        raise ConfigError(f"backend is '{backend}', which is unknown. Use {nearest(backend, BACKENDS)}.", "backend")
    if height < 1 or width < 1:
        raise ConfigError(
            f"The image size is {width}x{height}, but both must be at least 1. Give positive pixels.", "width"
        )


@torch.no_grad()
def check_values(clip: Tensor, faces: Tensor) -> None:
    """Raise ConfigError for a vertex that is not finite, or a face that names a vertex which does not exist.

    Looks at every value, hence for tensors on the CPU only.
    """
    if clip.device.type != "cpu":
        return
    finite = torch.isfinite(clip)
    if not finite.all():
        place = tuple((~finite).nonzero()[0].tolist())
        raise ConfigError(
            f"clip is {float(clip[place])} at {list(place)} ({int((~finite).sum())} such values), but every vertex must be "
            "finite. Look for the step that made it so: a learning rate too high, or a division by zero.",
            "clip",
        )
    check_range(faces, clip.shape[1])


def check_range(faces: Tensor, vertices: int) -> None:
    """Raise ConfigError for a face that names a vertex which does not exist (CPU tensors only)."""
    if faces.device.type == "cpu" and faces.numel():
        low, high = (int(value) for value in torch.aminmax(faces))
        if low < 0 or high >= vertices:
            raise ConfigError(
                f"faces names vertex {low if low < 0 else high}, but there are {vertices}, numbered from 0. "
                "Check that faces and vertices are of the same mesh.",
                "faces",
            )


def _short(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
