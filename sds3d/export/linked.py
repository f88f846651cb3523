"""Pictures that a mesh file holds or names: readers skip broken ones silently, so they are tried beforehand."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from sds3d.errors import AssetError
from sds3d.export import glb


def check_pictures(source: Path) -> None:
    """Raise AssetError if a picture in or beside a GLB or OBJ file is missing or cannot be read."""
    if source.suffix.lower() == ".glb":
        for name, data in _of_glb(source):
            _check(source, name, data)
    elif source.suffix.lower() == ".obj":
        for file in _of_obj(source):
            _check(source, f"'{file.name}'", _contents(source, file))


def _check(source: Path, name: str, data: bytes) -> None:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
    except Exception as error:  # pillow raises whatever its decoders do
        raise AssetError(
            f"The picture {name} of '{source}' cannot be read ({type(error).__name__}, {len(data)} bytes). PNG, JPEG or "
            "another format that Pillow knows is needed: export the asset again with such textures, or without any.",
            source,
        ) from error


def _contents(source: Path, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except (OSError, ValueError) as error:
        raise AssetError(
            f"'{source}' names '{file.name}', which cannot be read ({error}). The materials and pictures of an asset must "
            "lie where it says: copy them there, or export the asset again.",
            source,
        ) from error


def _of_glb(source: Path) -> Iterator[tuple[str, bytes]]:
    tree, binary = glb.decode(source.read_bytes(), source)
    for number, image in enumerate(tree.get("images", [])):
        name = f"{number} ('{image['name']}')" if image.get("name") else str(number)
        if "bufferView" in image:
            try:
                view = tree["bufferViews"][image["bufferView"]]
                start = int(view.get("byteOffset", 0))
                yield name, binary[start : start + int(view["byteLength"])]
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise glb.broken(source, f"its picture {name} is not complete ({error!r})") from error
        elif str(image.get("uri", "")).startswith("data:"):
            yield name, base64.b64decode(str(image["uri"]).partition(",")[2])
        else:
            yield name, _contents(source, source.parent / unquote(str(image.get("uri", ""))))


def _of_obj(source: Path) -> Iterator[Path]:
    for line in _contents(source, source).decode("utf-8", errors="replace").splitlines():
        if line.startswith("mtllib "):
            library = source.parent / line[7:].strip()
            text = _contents(source, library).decode("utf-8", errors="replace")
            for entry in (entry.strip() for entry in text.splitlines()):
                # "map_Kd -s 1 1 1 wood.png": options come first. Only this picture is used.
                if entry.lower().startswith("map_kd "):
                    yield library.parent / (entry[7:].strip() if " -" not in entry else entry.split()[-1])
