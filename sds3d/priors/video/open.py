"""Open a video model whatever its family: the configuration of its network says which."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sds3d.errors import AssetError
from sds3d.priors.folder import PriorFolder, check_folder
from sds3d.priors.video.families import FAMILIES, STACKED, Family

if TYPE_CHECKING:
    import torch

    from sds3d.priors.memory import MemorySwitches
    from sds3d.priors.video.diffusion import DiffusersVideoPrior
    from sds3d.priors.video.settings import VideoSettings


def family_of(folder: PriorFolder) -> Family:
    """Return the family of a checked folder. Raises: AssetError if its network is not one of a video model."""
    if STACKED.networks[0] == folder.configs.get("unet", {}).get("_class_name") and folder.metadata.frames is not None:
        return STACKED  # an ordinary UNet of pictures, but for what sds3d.json says
    for family in FAMILIES:
        if folder.configs.get(family.part, {}).get("_class_name") in family.networks:
            return family
    names = [folder.configs[part].get("_class_name") for part in ("unet", "transformer") if part in folder.configs]
    known = ", ".join(family.title for family in FAMILIES)
    raise AssetError(
        f"The network of '{folder.path}' is a {' and a '.join(map(str, names)) or 'missing part'}, which is no video "
        f"model that can be run; known are {known}. Use another folder.",
        folder.path,
    )


def open_video_prior(
    path: Path | str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    vae_dtype: torch.dtype | None = None,
    *,
    settings: VideoSettings | None = None,
    switches: MemorySwitches | None = None,
) -> DiffusersVideoPrior:
    """Return the video prior in the diffusers folder at `path`, of whatever family; float32 by default.

    A Stable Diffusion 1.5 folder becomes AnimateDiff with `settings.motion_adapter`.
    Raises: AssetError or ConfigError, see `DiffusersVideoPrior.from_folder`.
    """
    import torch

    prior = prior_class(family_of(check_folder(path)))
    numbers = (dtype or torch.float32, vae_dtype or torch.float32)
    return prior.from_folder(path, device, *numbers, settings=settings, switches=switches)


def prior_class(family: Family) -> type[DiffusersVideoPrior]:
    """Return the class that runs a family."""
    from sds3d.priors.video.cogvideox import CogVideoXPrior
    from sds3d.priors.video.ltx import LTXPrior
    from sds3d.priors.video.stacked import StackedFramesPrior
    from sds3d.priors.video.svd import SVDPrior
    from sds3d.priors.video.unets import AnimateDiffPrior, UNet3DPrior
    from sds3d.priors.video.wan import WanPrior

    classes = (UNet3DPrior, AnimateDiffPrior, StackedFramesPrior, SVDPrior, WanPrior, CogVideoXPrior, LTXPrior)
    return next(kind for kind in classes if kind.family == family)
