"""Sets rendered by Blender: NeRF-synthetic (also Shiny Blender) and TensoIR layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sds3d.datasets.frames import from_opengl, pinhole
from sds3d.datasets.gather import Shot, gather, matrix_of, read_json, size_of
from sds3d.datasets.pictures import ENDINGS
from sds3d.datasets.view_set import ViewSet
from sds3d.errors import AssetError


def load_blender(folder: Path | str, split: str = "train", shrink: int = 1) -> ViewSet:
    """Return one split of a folder with `transforms_<split>.json` and RGBA pictures.

    Blender's world is ours (+Z up); its cameras have OpenGL axes and are turned. Files `<picture>_normal.png` beside all
    of the pictures (Shiny Blender, world frame) and `<picture>_albedo.png` are read as well.
    Raises: AssetError for missing files or keys, pictures without alpha or of different sizes.
    """
    root = Path(folder)
    path = root / f"transforms_{split}.json"
    tree = read_json(path)
    try:
        frames = [(str(frame["file_path"]), frame["transform_matrix"], frame) for frame in tree["frames"]]
        angles = [float(frame.get("camera_angle_x", tree.get("camera_angle_x", "nan"))) for *_, frame in frames]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AssetError(
            f"'{path}' is no list of cameras ({error!r} is missing or wrong). It needs 'camera_angle_x' and 'frames' with "
            "'file_path' and 'transform_matrix': see NeRF's synthetic scenes.",
            path,
        ) from error
    shots = []
    for (name, matrix, _), angle in zip(frames, angles, strict=True):
        image = find_picture(root / name)
        planes = {key: image.with_name(f"{image.stem}_{word}.png") for key, word in _BESIDE.items()}
        shots.append(_shot(image, matrix_of(matrix, path), angle, planes))
    return gather(f"{root.name}/{split}", _common(shots), root, shrink)


def load_tensoir(folder: Path | str, split: str = "train", light: str = "", shrink: int = 1) -> ViewSet:
    """Return one split of a folder with one sub-folder a view: `train_000/metadata.json`, `rgba.png`, `normal.png`, ...

    light: name of the light of `images`, "" for `rgba.png`; all other `rgba_<light>.png` become `relit`.
    Source: the layout read by github.com/Haian-Jin/TensoIR, dataLoader.
    Raises: AssetError as `load_blender`.
    """
    root = Path(folder)
    shots = []
    for view in sorted(place for place in root.glob(f"{split}_*") if place.is_dir()):
        path = view / "metadata.json"
        tree = read_json(path)
        try:
            numbers = [float(word) for word in str(tree["cam_transform_mat"]).split(",")]
            angle = float(tree["cam_angle_x"])
        except (KeyError, TypeError, ValueError) as error:
            raise AssetError(
                f"'{path}' is no camera ({error!r} is missing or wrong). It needs 'cam_angle_x' and 16 numbers in "
                "'cam_transform_mat': copy the file again.",
                path,
            ) from error
        rows = [numbers[k : k + 4] for k in range(0, len(numbers), 4)]
        planes = {"normals": view / "normal.png", "albedo": view / "albedo.png"}
        relit = {file.stem[5:]: file for file in sorted(view.glob("rgba_*.png"))}
        image = view / (f"rgba_{light}.png" if light else "rgba.png")
        shots.append(_shot(image, matrix_of(rows, path), angle, planes, relit))
    return gather(f"{root.name}/{split}", _common(shots), root, shrink)


_BESIDE = {"normals": "normal", "albedo": "albedo"}


def find_picture(path: Path) -> Path:
    """Return the file of a picture that may be named without its ending (as the JSON files of NeRF do)."""
    if path.suffix.lower() in ENDINGS:
        return path
    for ending in ENDINGS:
        if path.with_name(path.name + ending).is_file():
            return path.with_name(path.name + ending)
    return path.with_name(path.name + ".png")


def _shot(image: Path, matrix: Tensor, angle: float, planes: dict[str, Path], relit: Any = None) -> Shot:
    width, height = size_of(image)
    intrinsics = pinhole(1, width, height, angle)[0]
    there = {key: file for key, file in planes.items() if file.is_file()}
    return Shot(
        image=image, cam_to_world=from_opengl(matrix[None])[0], intrinsics=intrinsics, planes=there, relit=relit or {}
    )


def _common(shots: list[Shot]) -> list[Shot]:
    """Return the shots with only those planes and lights that all of them have."""
    from dataclasses import replace

    if not shots:
        return shots
    planes = set.intersection(*(set(shot.planes) for shot in shots))
    relit = set.intersection(*(set(shot.relit) for shot in shots))
    return [
        replace(
            shot,
            planes={key: file for key, file in shot.planes.items() if key in planes},
            relit={key: file for key, file in shot.relit.items() if key in relit},
        )
        for shot in shots
    ]


def as_transforms(views: ViewSet, pictures: list[str]) -> dict[str, Any]:
    """Return the JSON tree of `transforms_<split>.json` for cameras of one field of view: the inverse of the reader."""
    focal = views.cameras.intrinsics[:, 0, 0]
    if float((focal - focal[0]).abs().max()) > 1e-3:
        raise AssetError(
            "The cameras have different fields of view, which this layout cannot hold. Write COLMAP files."
        )
    angle = 2.0 * float(torch.atan(0.5 * views.cameras.width / focal[0]))
    matrices = from_opengl(views.cameras.cam_to_world).tolist()
    frames = [{"file_path": name, "transform_matrix": m} for name, m in zip(pictures, matrices, strict=True)]
    return {"camera_angle_x": angle, "frames": frames}
