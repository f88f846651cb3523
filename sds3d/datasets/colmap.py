"""Sparse models of COLMAP: cameras and images as text or binary, with pictures and masks beside them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sds3d.datasets.gather import Shot, gather
from sds3d.datasets.view_set import ViewSet
from sds3d.errors import AssetError

MODELS = {
    "SIMPLE_PINHOLE": (0, 3),
    "PINHOLE": (1, 4),
    "SIMPLE_RADIAL": (2, 4),
    "RADIAL": (3, 5),
    "OPENCV": (4, 8),
}
"""Camera models: number in binary files, count of parameters. Source: COLMAP's documentation of camera models."""
_SHARED_FOCAL = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")


@dataclass(frozen=True)
class Lens:
    """One camera of a model: its model's name, size in pixels and parameters."""

    model: str
    width: int
    height: int
    parameters: tuple[float, ...]

    @property
    def intrinsics(self) -> Tensor:
        """[3, 3] in pixels; the centre of the upper left pixel lies at (0.5, 0.5), as in our pictures.

        Raises: AssetError if the lens distorts: pictures must be undistorted first.
        """
        values = self.parameters
        fx, fy, cx, cy = (values[0], *values[:3]) if self.model in _SHARED_FOCAL else values[:4]
        bending = values[3:] if self.model in _SHARED_FOCAL else values[4:]
        if any(abs(value) > 1e-6 for value in bending):
            raise AssetError(
                f"The pictures were taken through a lens with distortion {[round(v, 4) for v in bending]}, but pinhole "
                "cameras are needed. Run 'colmap image_undistorter' and give its output."
            )
        return torch.tensor([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class Pose:
    """One image of a model: file name, camera, and the rotation (wxyz) and translation from the world to it."""

    name: str
    camera: int
    rotation: tuple[float, float, float, float]
    translation: tuple[float, float, float]

    @property
    def cam_to_world(self) -> Tensor:
        """[4, 4] float64, OpenCV axes (those of COLMAP)."""
        w, x, y, z = (
            torch.tensor(self.rotation, dtype=torch.float64) / torch.tensor(self.rotation).double().norm()
        ).tolist()
        rows = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
        rotation = torch.tensor(rows, dtype=torch.float64)
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[:3, :3] = rotation.T
        matrix[:3, 3] = -rotation.T @ torch.tensor(self.translation, dtype=torch.float64)
        return matrix


def load_colmap(folder: Path | str, images: str = "images", masks: str = "masks", shrink: int = 1) -> ViewSet:
    """Return the pictures of a COLMAP workspace in COLMAP's own world (see `frames.normalised` for a usable one).

    folder: holds `sparse/0`, `sparse` or the model files themselves. images, masks: folders of pictures and of their
    alpha; a mask is named as its picture, or that with `.png` added, and is not needed for RGBA pictures.
    Raises: AssetError for missing files, broken models, lenses with distortion, pictures without alpha, and if the
    number of pictures differs from that of poses.
    """
    root = Path(folder)
    place = next((p for p in (root / "sparse" / "0", root / "sparse", root) if list(p.glob("images.*"))), None)
    if place is None:
        raise AssetError(
            f"'{root}' has no COLMAP model: 'cameras' and 'images' as .bin or .txt are needed in sparse/0. Run COLMAP's "
            "mapper, or give the folder above 'sparse'.",
            root,
        )
    lenses, poses = read_model(place)
    files = sorted(p for p in (root / images).rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
    if files and len(files) != len(poses):
        raise AssetError(
            f"'{root / images}' has {len(files)} pictures, but the model has {len(poses)} cameras. COLMAP left some out: "
            "remove those pictures, or map again.",
            root,
        )
    shots = []
    for pose in sorted(poses, key=lambda pose: pose.name):
        if pose.camera not in lenses:
            raise AssetError(f"The model in '{place}' has no camera {pose.camera}, which '{pose.name}' needs.", place)
        mask = next((p for p in _masks(root / masks, pose.name) if p.is_file()), root / masks / pose.name)
        intrinsics, matrix = lenses[pose.camera].intrinsics, pose.cam_to_world
        shots.append(Shot(image=root / images / pose.name, mask=mask, cam_to_world=matrix, intrinsics=intrinsics))
    return gather(root.name, shots, root / images, shrink)


def read_model(place: Path) -> tuple[dict[int, Lens], list[Pose]]:
    """Return (cameras by number, images) of a sparse model, binary if there is one, else text."""
    if (place / "images.bin").is_file():
        return _guarded(_cameras_bin, place / "cameras.bin"), _guarded(_images_bin, place / "images.bin")
    return _guarded(_cameras_txt, place / "cameras.txt"), _guarded(_images_txt, place / "images.txt")


def _masks(folder: Path, name: str) -> list[Path]:
    return [folder / name, folder / f"{name}.png", (folder / name).with_suffix(".png")]


def _guarded(read: Callable[[Path], Any], path: Path) -> Any:
    try:
        return read(path)
    except FileNotFoundError as error:
        raise AssetError(
            f"'{path}' does not exist, but a COLMAP model needs it. Export the model again.", path
        ) from error
    except (ValueError, IndexError, KeyError, struct.error) as error:
        raise AssetError(
            f"'{path}' cannot be read as a COLMAP model ({error}). Export the model again; known camera models are "
            f"{', '.join(MODELS)}.",
            path,
        ) from error


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


def _cameras_txt(path: Path) -> dict[int, Lens]:
    lenses = {}
    for words in (line.split() for line in _lines(path) if line.strip()):
        count = MODELS[words[1]][1]
        parameters = tuple(float(word) for word in words[4:])
        if len(parameters) != count:
            raise ValueError(f"{words[1]} has {len(parameters)} parameters instead of {count}")
        lenses[int(words[0])] = Lens(words[1], int(words[2]), int(words[3]), parameters)
    return lenses


def _images_txt(path: Path) -> list[Pose]:
    poses = []
    for line in _lines(path)[::2]:  # every second line lists the points, and may be empty
        if not line.strip():
            continue
        words = line.split(maxsplit=9)
        w, x, y, z, *place = (float(word) for word in words[1:8])
        poses.append(Pose(words[9].strip(), int(words[8]), (w, x, y, z), (place[0], place[1], place[2])))
    return poses


def _cameras_bin(path: Path) -> dict[int, Lens]:
    data, at = path.read_bytes(), 8
    names = {number: (name, count) for name, (number, count) in MODELS.items()}
    lenses = {}
    for _ in range(struct.unpack_from("<Q", data)[0]):
        key, model, width, height = struct.unpack_from("<IiQQ", data, at)
        name, count = names[model]
        lenses[key] = Lens(name, width, height, struct.unpack_from(f"<{count}d", data, at + 24))
        at += 24 + 8 * count
    return lenses


def _images_bin(path: Path) -> list[Pose]:
    data, at = path.read_bytes(), 8
    poses = []
    for _ in range(struct.unpack_from("<Q", data)[0]):
        values = struct.unpack_from("<I7dI", data, at)
        end = data.index(b"\0", at + 64)
        points = struct.unpack_from("<Q", data, end + 1)[0]
        poses.append(Pose(data[at + 64 : end].decode("utf-8"), values[8], values[1:5], values[5:8]))
        at = end + 9 + 24 * points
    return poses
