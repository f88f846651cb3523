"""One call that finds the surface at every pixel, on whichever back end suits the tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from renderers.meshes import checks, cpu, nvdiffrast_backend, pytorch3d_backend, reference
from renderers.meshes.clip import full_precision
from renderers.meshes.fragments import Fragments
from renderers.meshes.surface import surface
from sds3d.errors import BackendError

OPTIONAL = {"cpu": cpu, "nvdiffrast": nvdiffrast_backend, "pytorch3d": pytorch3d_backend}


def rasterise(clip: Tensor, faces: Tensor, height: int, width: int, backend: str = "auto") -> Fragments:
    """Return the nearest face at every pixel centre, and where on it the pixel lies.

    Args:
        clip: [B, V, 4] floating point, clip coordinates of B views (`clip.clip_from`). faces: [F, 3] int64, any winding;
            both sides are drawn, and faces may cross the camera's plane.
        height, width: pixels.
        backend: "reference" (brute force in torch, any device and dtype), "cpu" (compiled, float32), "nvdiffrast" (CUDA),
            "pytorch3d" (where somebody built it), or "auto": nvdiffrast, or else pytorch3d, for CUDA float32 tensors, cpu
            for CPU float32 tensors, where available, otherwise reference.

    Returns: `Fragments`. A pixel on a common edge of faces belongs to exactly one of them (top-left rule); of faces at the
        same depth, the first is seen. Back ends other than cpu and reference may differ in such pixels.
    Raises: ShapeError, ConfigError for a wrong argument, among them NaN and faces that name missing vertices (looked at on
        the CPU only: on another device that would make the program wait for it); BackendError if the wanted back end
        cannot run.
    Source: Olano and Greer, Triangle Scan Conversion using 2D Homogeneous Coordinates, 1997; clip space of nvdiffrast.
    Deviations: every back end only says which face a pixel sees; weights and depth, with their gradients, are one formula
        (`surface`, or its compiled twin), so that a picture does not depend on who drew it.
    """
    checks.check_mesh(clip, faces)
    checks.check_options(height, width, backend)
    checks.check_values(clip, faces)
    chosen = choose_backend(backend, clip)
    with full_precision(clip.device.type):
        if chosen == "cpu":
            return Fragments(*cpu.rasterise(clip, faces, height, width), backend=chosen)
        draw = reference.visible_faces if chosen == "reference" else OPTIONAL[chosen].visible_faces
        with torch.no_grad():
            face = draw(clip.detach(), faces, height, width)
        return Fragments(face, *surface(clip, faces, face), backend=chosen)


def choose_backend(backend: str, clip: Tensor) -> str:
    """Return the back end that draws `clip`; raise BackendError if the one asked for cannot."""
    kind, is_single = clip.device.type, clip.dtype == torch.float32
    if backend == "auto":
        preferred = {"cpu": ("cpu",), "cuda": ("nvdiffrast", "pytorch3d")}.get(kind, ()) if is_single else ()
        present = (name for name in preferred if OPTIONAL[name].probe() == "available")
        return next(present, "reference")
    if backend in OPTIONAL:
        state = OPTIONAL[backend].probe()
        if state != "available":
            raise BackendError(f"Mesh rasteriser '{backend}' cannot run here: {state}. Or use backend='auto'.")
        devices = OPTIONAL[backend].DEVICES
        if kind not in devices or not is_single:
            given = f"{str(clip.dtype).removeprefix('torch.')} tensors on {kind}"
            raise BackendError(
                f"Mesh rasteriser '{backend}' was given {given}, but needs float32 on {' or '.join(devices)}. "
                "Use backend='reference' or move them."
            )
    return backend


def available_backends() -> dict[str, str]:
    """Return, for each back end, "available" or the reason it is not and the fix, as `doctor` prints them."""
    return {"reference": "available"} | {name: module.probe() for name, module in OPTIONAL.items()}
