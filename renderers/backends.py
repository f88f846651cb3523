"""Which back ends of all renderers work here, for `doctor`."""

from __future__ import annotations


def available_backends() -> dict[str, str]:
    """Return, for each back end as "renderer name", "available" or the reason it is not and the fix."""
    from renderers.gaussians import rasterise as gaussians
    from renderers.meshes import rasterise as meshes
    from renderers.volume import nerfacc_backend

    found = {"gaussians": gaussians.available_backends(), "mesh": meshes.available_backends()}
    found["nerf and sdf"] = {"torch": "available", "nerfacc": nerfacc_backend.probe()}
    return {f"{kind}: {name}": state for kind, states in found.items() for name, state in states.items()}
