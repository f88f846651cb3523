"""From our world frame and colour encoding to those of other formats."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sds3d.conventions import WORLD_TO_GLTF


def to_gltf_axes(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Turn [V, 3] world vectors (+Z up, front +X) into glTF's axes (+Y up, front +Z, left +X)."""
    return (vectors @ np.array(WORLD_TO_GLTF, dtype=vectors.dtype).T).astype(np.float32)


def from_gltf_axes(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Turn [V, 3] vectors in glTF's axes into world vectors: the inverse of `to_gltf_axes`."""
    return (vectors @ np.array(WORLD_TO_GLTF, dtype=vectors.dtype)).astype(np.float32)


def srgb_to_linear(colors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Decode sRGB in [0, 1] to linear light. Source: IEC 61966-2-1."""
    c = np.clip(np.asarray(colors, np.float64), 0.0, 1.0)
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4).astype(np.float32)


def linear_to_srgb(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Encode linear light in [0, 1] as sRGB. Source: IEC 61966-2-1."""
    c = np.clip(np.asarray(values, np.float64), 0.0, 1.0)
    return np.where(c <= 0.0031308, 12.92 * c, 1.055 * c ** (1.0 / 2.4) - 0.055).astype(np.float32)
