"""LPIPS through its own package, where that and its weights are on this machine; nothing is downloaded."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

TRUNK = "alexnet-owt-7be5be79.pth"
"""The file torchvision downloads for the trunk; the calibration comes with the package."""


def missing_lpips() -> str:
    """Return why LPIPS cannot be used, "" if it can."""
    if find_spec("lpips") is None:
        return "lpips is not installed (pip install lpips; it brings torchvision, use an environment of its own)"
    if not (Path(torch.hub.get_dir()) / "checkpoints" / TRUNK).is_file():
        return f"the weights '{TRUNK}' are not in torch's cache (run lpips.LPIPS(net='alex') once, online)"
    return ""


@torch.no_grad()
def lpips_distance(pictures: NDArray[np.floating], references: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return LPIPS (AlexNet) of each pair, 0 for equal pictures. pictures, references: [B, H, W, 3] in [0, 1].

    Source: Zhang et al. 2018, their package. Call only if `missing_lpips` returns "".
    """
    import lpips

    model: Any = lpips.LPIPS(net="alex", verbose=False)
    first, second = (
        torch.as_tensor(np.asarray(images, np.float32)).permute(0, 3, 1, 2) * 2 - 1 for images in (pictures, references)
    )
    return np.asarray(model(first, second).reshape(len(first)).double().numpy())
