"""Materials at the border: pictures as PNG bytes, and the words that glTF uses for them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.meshing.mesh import Material


def png(texture: NDArray[np.floating]) -> bytes:
    """Return a texture [H, W, 1 or 3] in [0, 1] as a PNG file of 8 bits a channel."""
    from PIL import Image

    pixels = np.rint(np.clip(texture, 0.0, 1.0) * 255.0).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def gltf_material(material: Material) -> tuple[dict[str, Any], list[bytes]]:
    """Return the JSON of a glTF material and its pictures, numbered as the JSON refers to them.

    Source: glTF 2.0 specification, section 3.9: base colour and emission are sRGB, the other pictures linear; roughness
    is the green channel and metalness the blue one. Lamps brighter than 1 and baked light need extensions of Khronos
    (KHR_materials_emissive_strength, KHR_materials_unlit), which the file must name: keys of "extensions".
    """
    pictures: list[bytes] = []

    def texture(picture: NDArray[np.floating]) -> dict[str, Any]:
        pictures.append(png(picture))
        return {"index": len(pictures) - 1}

    surface: dict[str, Any] = {
        "baseColorFactor": [*material.base_color_factor, 1.0],
        "metallicFactor": material.metallic_factor,
        "roughnessFactor": material.roughness_factor,
    }
    if material.base_color is not None:
        surface["baseColorTexture"] = texture(material.base_color)
    if material.metallic_roughness is not None:
        metallic, roughness = np.moveaxis(material.metallic_roughness, 2, 0)
        packed = np.stack([np.ones_like(metallic), roughness, metallic], axis=2)
        surface["metallicRoughnessTexture"] = texture(packed)
    tree: dict[str, Any] = {"name": "surface", "pbrMetallicRoughness": surface}
    if material.normal is not None:
        tree["normalTexture"] = texture(material.normal)
    if material.occlusion is not None:
        tree["occlusionTexture"] = texture(material.occlusion)
    if material.emissive is not None:
        tree["emissiveTexture"] = texture(material.emissive)
    strength = max(material.emissive_factor or (0.0,))
    if strength > 0.0:
        tree["emissiveFactor"] = [value / max(strength, 1.0) for value in material.emissive_factor or ()]
    extensions: dict[str, Any] = {}
    if material.is_unlit:  # the two exclude each other
        extensions["KHR_materials_unlit"] = {}
    elif strength > 1.0:
        extensions["KHR_materials_emissive_strength"] = {"emissiveStrength": strength}
    return ({**tree, "extensions": extensions} if extensions else tree), pictures
