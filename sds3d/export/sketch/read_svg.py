"""Read the cubic curves of an SVG drawing."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from sds3d.errors import AssetError
from sds3d.export.sketch.sketch import Values

_TOKEN = re.compile(r"[A-Za-z]|[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def read_svg(path: Path | str) -> Values:
    """Return [N, 4, 2], the cubics of all paths, in the drawing's units (x right, y down).

    Known commands: M, L, H, V, C, Z, in both cases; lines become straight cubics.
    Raises: AssetError if the file is missing, no SVG, has other commands or no curves.
    Limits: transformations of groups are not applied; shapes that are no paths are not read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:  # entities can be made to grow without bound
            raise _refused(path, "it has a document type declaration")
        root = ElementTree.fromstring(text)
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise _refused(path, f"it is no readable SVG file ({error})") from error
    found = [
        cubic
        for element in root.iter()
        if element.tag.rsplit("}", 1)[-1] == "path"
        for cubic in _cubics(element.get("d", ""), path)
    ]
    if not found:
        raise _refused(path, "it has 0 curves")
    return np.array(found, np.float64)


def _cubics(data: str, path: Path | str) -> list[list[Values]]:
    """Return the cubics of one path."""
    here, start, found = np.zeros(2), np.zeros(2), []
    for letter, numbers in _commands(data):
        kind = letter.upper()
        size = {"M": 2, "L": 2, "H": 1, "V": 1, "C": 6, "Z": 0}.get(kind)
        if size is None or (len(numbers) % size if size else len(numbers)) or (size and not numbers):
            raise _refused(path, f"a path has the command '{letter}' with {len(numbers)} numbers")
        if kind == "Z":
            found.append(_straight(here, start))
            here = start
        for k in range(0, len(numbers), size or 1):
            base = here if letter.islower() else np.zeros(2)
            group = np.array(numbers[k : k + size])
            if kind == "C":
                ends = group.reshape(3, 2) + base
                found.append([here, *ends])
                here = ends[2]
                continue
            target = {"H": np.array([base[0] + group[0], here[1]]), "V": np.array([here[0], base[1] + group[0]])}.get(
                kind, group[:2] + base if size == 2 else here
            )
            if kind == "M" and k == 0:
                start = target
            else:
                found.append(_straight(here, target))
            here = target
    return [cubic for cubic in found if any((cubic[0] != p).any() for p in cubic[1:])]


def _commands(data: str) -> list[tuple[str, list[float]]]:
    result: list[tuple[str, list[float]]] = []
    for token in _TOKEN.findall(data):
        if token.isalpha():
            result.append((token, []))
        elif result:
            result[-1][1].append(float(token))
    return result


def _straight(a: Values, b: Values) -> list[Values]:
    return [a, a + (b - a) / 3.0, a + 2.0 * (b - a) / 3.0, b]


def _refused(path: Path | str, why: str) -> AssetError:
    return AssetError(
        f"'{path}' cannot be read as a drawing: {why}. An SVG file whose paths use the commands M, L, H, V, C and Z is "
        "needed: simplify it in a vector program (as paths), or start from 'sphere'.",
        path,
    )
