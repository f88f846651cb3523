"""Readers of picture sets: tiny hand-written folders come back as they were, known points land in known pixels."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sds3d.cameras import Cameras, orbit
from sds3d.datasets.blender import as_transforms, load_blender, load_tensoir
from sds3d.datasets.colmap import load_colmap, read_model
from sds3d.datasets.frames import cameras_at, look_at_point, normalised
from sds3d.datasets.open import detect, load_views
from sds3d.datasets.stanford_orb import load_stanford_orb
from sds3d.datasets.view_set import ViewSet
from sds3d.errors import AssetError

WIDTH, HEIGHT = 8, 6


def ring(count: int = 3, distance: float = 2.5) -> Cameras:
    azimuth = torch.arange(count) * (360.0 / count) + 10.0
    elevation = torch.linspace(-10.0, 40.0, count)
    return orbit(azimuth, elevation, torch.full((count,), distance), 50.0, WIDTH, HEIGHT)


def picture(seed: int, channels: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, channels), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(path)


def project(cameras: Cameras, point: torch.Tensor) -> torch.Tensor:
    """Return the pixel coordinates [B, 2] of a world point by the matrices alone."""
    seen = (cameras.world_to_cam[:, :3, :3] @ point)[..., None] + cameras.world_to_cam[:, :3, 3:]
    flat = (cameras.intrinsics @ seen)[..., 0]
    return flat[:, :2] / flat[:, 2:]


def write_blender(folder: Path, count: int = 3, channels: int = 4) -> tuple[Cameras, list[np.ndarray]]:
    cameras, pictures = ring(count), [picture(k, channels) for k in range(count)]
    views = ViewSet(
        name="x",
        images=torch.zeros(count, HEIGHT, WIDTH, 3),
        alpha=torch.ones(count, HEIGHT, WIDTH, 1),
        cameras=cameras,
        names=tuple("abc"[:count]),
    )
    tree = as_transforms(views, [f"./train/r_{k}" for k in range(count)])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "transforms_train.json").write_text(json.dumps(tree))
    for k, pixels in enumerate(pictures):
        save(folder / "train" / f"r_{k}.png", pixels)
    return cameras, pictures


def test_blender_round_trip(tmp_path: Path) -> None:
    cameras, pictures = write_blender(tmp_path)
    views = load_blender(tmp_path)
    torch.testing.assert_close(views.cameras.cam_to_world, cameras.cam_to_world, atol=1e-6, rtol=0)
    torch.testing.assert_close(views.cameras.intrinsics, cameras.intrinsics, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(views.cameras.azimuth_deg, cameras.azimuth_deg, atol=1e-3, rtol=0)
    expected = torch.from_numpy(np.stack(pictures)).float() / 255
    torch.testing.assert_close(torch.cat([views.images, views.alpha], dim=-1), expected)
    assert views.names[0] == "train/r_0.png" and detect(tmp_path) == "blender"


def test_blender_frame_is_opengl_with_z_up(tmp_path: Path) -> None:
    """A camera at (0, -4, 0) looking along +Y as Blender writes it: a point above and right of the middle lies there."""
    matrix = [[1, 0, 0, 0], [0, 0, -1, -4], [0, 1, 0, 0], [0, 0, 0, 1]]
    tree = {"camera_angle_x": math.pi / 2, "frames": [{"file_path": "v", "transform_matrix": matrix}]}
    (tmp_path / "transforms_train.json").write_text(json.dumps(tree))
    save(tmp_path / "v.png", picture(0))
    pixel = project(load_blender(tmp_path).cameras, torch.tensor([1.0, 0.0, 0.5]))
    assert pixel[0].tolist() == pytest.approx([WIDTH / 2 * (1 + 1 / 4), HEIGHT / 2 - WIDTH / 2 * 0.5 / 4])


def test_shrinking_keeps_the_background_out(tmp_path: Path) -> None:
    write_blender(tmp_path, 1)
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    pixels[..., 0] = 255  # red everywhere, but opaque only where it is green
    pixels[::2, ::2] = (0, 255, 0, 255)
    save(tmp_path / "train" / "r_0.png", pixels)
    views = load_blender(tmp_path, shrink=2)
    assert views.images.shape == (1, 3, 4, 3) and views.cameras.width == 4
    torch.testing.assert_close(views.images[..., :2], torch.tensor([0.0, 1.0]).expand(1, 3, 4, 2))
    torch.testing.assert_close(views.alpha, torch.full((1, 3, 4, 1), 0.25))
    whole = load_blender(tmp_path)
    torch.testing.assert_close(project(whole.cameras, torch.ones(3)), 2 * project(views.cameras, torch.ones(3)))
    with pytest.raises(AssetError, match="cannot be made 5 times smaller"):
        load_blender(tmp_path, shrink=5)


def test_tensoir(tmp_path: Path) -> None:
    """Normals, base colour and relit pictures come along; base colour is decoded."""
    matrix = "1,0,0,0,0,0,-1,-4,0,1,0,0,0,0,0,1"
    for k in range(2):
        view = tmp_path / f"train_{k:03d}"
        for name in ("rgba", "rgba_city", "normal", "albedo"):
            save(view / f"{name}.png", picture(10 * k + len(name)))
        solid = np.full((HEIGHT, WIDTH, 4), 255, np.uint8)
        save(view / "rgba.png", solid)
        save(view / "normal.png", np.broadcast_to(np.array([255, 128, 128, 255], np.uint8), solid.shape))
        save(view / "albedo.png", np.broadcast_to(np.array([188, 0, 255, 255], np.uint8), solid.shape))
        view.joinpath("metadata.json").write_text(json.dumps({"cam_transform_mat": matrix, "cam_angle_x": 0.7}))
    views = load_views(tmp_path)
    assert len(views) == 2 and set(views.relit) == {"city"}
    assert views.normals is not None and views.normals[0, 0, 0].tolist() == pytest.approx([1, 0, 0], abs=0.01)
    assert views.albedo is not None and views.albedo[0, 0, 0].tolist() == pytest.approx([0.503, 0, 1], abs=0.01)
    relit = load_tensoir(tmp_path, light="city")
    torch.testing.assert_close(relit.images, views.relit["city"])
    with pytest.raises(AssetError, match=r"No pictures were found .* Check the folder and the split"):
        load_tensoir(tmp_path, "test")


def test_stanford_orb(tmp_path: Path) -> None:
    """Masks lie beside the pictures; another scene's cameras have a field of view each."""
    scene, other = tmp_path / "cup_scene001", tmp_path / "cup_scene002"
    matrix = torch.eye(4).tolist()
    frame = {"file_path": "train/0000", "transform_matrix": matrix}
    novel = {"file_path": "test/0007", "transform_matrix": matrix, "scene_name": other.name, "camera_angle_x": 0.5}
    scene.mkdir()
    (scene / "transforms_train.json").write_text(json.dumps({"camera_angle_x": 0.7, "frames": [frame]}))
    (scene / "transforms_novel.json").write_text(json.dumps({"frames": [novel]}))
    for folder, name in ((scene / "train", "0000"), (other / "test", "0007")):
        save(folder / f"{name}.png", picture(1, 3))
        save(folder.with_name(folder.name + "_mask") / f"{name}.png", picture(2, 1))
    views = load_views(scene)
    assert detect(scene) == "stanford_orb" and views.images.shape == (1, HEIGHT, WIDTH, 3)
    torch.testing.assert_close(views.alpha[0], torch.from_numpy(picture(2, 1)).float() / 255)
    further = load_stanford_orb(scene, other.name)
    focal = float(further.cameras.intrinsics[0, 0, 0])
    assert focal == pytest.approx(0.5 * WIDTH / math.tan(0.25))
    with pytest.raises(AssetError, match=r"no pictures for 'cup_scene009'\. It knows .*cup_scene002"):
        load_stanford_orb(scene, "cup_scene009")
    (scene / "train_mask" / "0000.png").unlink()
    with pytest.raises(AssetError, match="no alpha and there is no mask"):
        load_stanford_orb(scene)


def colmap_text(folder: Path) -> None:
    """COLMAP's own example of a pose: 90 degrees about y, so that the camera looks along the world's -X."""
    half = math.sqrt(0.5)
    (folder / "cameras.txt").write_text(
        f"# comment\n1 PINHOLE {WIDTH} {HEIGHT} 10 11 4 3\n2 SIMPLE_PINHOLE {WIDTH} {HEIGHT} 9 4 3\n"
    )
    (folder / "images.txt").write_text(
        f"# comment\n2 {half} 0 {half} 0 0.5 0.25 2 1 b c.png\n1.0 2.0 -1 3.0 4.0 5\n1 1 0 0 0 0 0 3 2 a.png\n\n"
    )


def colmap_binary(folder: Path) -> None:
    half = math.sqrt(0.5)
    pinhole = struct.pack("<IiQQ4d", 1, 1, WIDTH, HEIGHT, 10, 11, 4, 3)
    simple = struct.pack("<IiQQ3d", 2, 0, WIDTH, HEIGHT, 9, 4, 3)
    (folder / "cameras.bin").write_bytes(struct.pack("<Q", 2) + pinhole + simple)
    first = (
        struct.pack("<I7dI", 2, half, 0, half, 0, 0.5, 0.25, 2, 1)
        + b"b c.png\0"
        + struct.pack("<Q2dq2dq", 2, 1, 2, -1, 3, 4, 5)
    )
    second = struct.pack("<I7dI", 1, 1, 0, 0, 0, 0, 0, 3, 2) + b"a.png\0" + struct.pack("<Q", 0)
    (folder / "images.bin").write_bytes(struct.pack("<Q", 2) + first + second)


@pytest.mark.parametrize("write", [colmap_text, colmap_binary])
def test_colmap_conventions(tmp_path: Path, write: Callable[[Path], None]) -> None:
    place = tmp_path / "sparse" / "0"
    place.mkdir(parents=True)
    write(place)
    for name in ("a.png", "b c.png"):
        save(tmp_path / "images" / name, picture(3, 3))
    save(tmp_path / "masks" / "a.png", picture(4, 1))
    save(tmp_path / "masks" / "b c.png.png", picture(4, 1))
    views = load_views(tmp_path)
    assert views.names == ("a.png", "b c.png") and detect(tmp_path) == "colmap"
    # x_cam = R x + t: image a is the identity 3 units back; b turns +X of the world into -z of the camera.
    point = torch.tensor([0.3, 0.2, 0.1])
    pixel = project(views.cameras, point)
    assert pixel[0].tolist() == pytest.approx([9 * 0.3 / 3.1 + 4, 9 * 0.2 / 3.1 + 3], rel=1e-5)
    seen = (0.1 + 0.5, 0.2 + 0.25, -0.3 + 2)
    assert pixel[1].tolist() == pytest.approx([10 * seen[0] / seen[2] + 4, 11 * seen[1] / seen[2] + 3], rel=1e-5)
    (tmp_path / "images" / "a.png").rename(tmp_path / "images" / "left out.jpg")
    save(tmp_path / "images" / "a.png", picture(3, 3))
    with pytest.raises(AssetError, match=r"has 3 pictures, but the model has 2 cameras"):
        load_colmap(tmp_path)


def test_colmap_refuses_distortion_and_broken_files(tmp_path: Path) -> None:
    colmap_text(tmp_path)
    (tmp_path / "cameras.txt").write_text(f"1 OPENCV {WIDTH} {HEIGHT} 10 10 4 3 0.1 0 0 0\n2 PINHOLE 8 6 9 9 4 3\n")
    for name in ("a.png", "b c.png"):
        save(tmp_path / "images" / name, picture(3, 4))
    with pytest.raises(AssetError, match=r"distortion \[0.1, 0.0, 0.0, 0.0\].*image_undistorter"):
        load_colmap(tmp_path)
    (tmp_path / "cameras.txt").write_text("1 FISHEYE 8 6 10 10 4 3\n")
    with pytest.raises(AssetError, match="cannot be read as a COLMAP model"):
        read_model(tmp_path)
    with pytest.raises(AssetError, match="has no COLMAP model"):
        load_colmap(tmp_path / "images")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: save(f / "train" / "r_1.png", picture(1, 3)),
            "so no alpha. The object must be told from the background",
        ),
        (lambda f: (f / "train" / "r_1.png").unlink(), r"r_1.png' does not exist"),
        (lambda f: (f / "train" / "r_1.png").write_bytes(b"no"), "cannot be read as a picture"),
        (
            lambda f: save(f / "train" / "r_1.png", np.zeros((2, 2, 4), np.uint8)),
            "All pictures of a set must have one size",
        ),
        (lambda f: (f / "transforms_train.json").write_text("{"), "is not valid JSON"),
        (lambda f: (f / "transforms_train.json").write_text('{"frames": [{}]}'), "is no list of cameras"),
        (lambda f: (f / "transforms_train.json").write_text('{"frames": []}'), "No pictures were found"),
        (lambda f: (f / "transforms_train.json").unlink(), "'.*transforms_train.json' does not exist"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    write_blender(tmp_path)
    spoil(tmp_path)
    with pytest.raises(AssetError, match=message):
        load_blender(tmp_path)


def test_counts_must_agree() -> None:
    cameras = ring(2)
    planes = {"images": torch.zeros(3, HEIGHT, WIDTH, 3), "alpha": torch.ones(3, HEIGHT, WIDTH, 1)}
    with pytest.raises(AssetError, match="3 pictures but 2 cameras"):
        ViewSet(name="x", cameras=cameras, names=("a", "b", "c"), **planes)


def test_unknown_folders(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="none of the known layouts"):
        detect(tmp_path)
    with pytest.raises(AssetError, match="does not exist"):
        load_views(tmp_path / "nowhere")
    with pytest.raises(AssetError, match="Use 'colmap'"):
        load_views(tmp_path, layout="colmapp")


def test_a_world_without_meaning_is_put_right() -> None:
    """Cameras turned, moved and scaled together come back, up to the azimuth of the first one."""
    cameras = ring(5)
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0].float()
    turn = turn * torch.linalg.det(turn)
    matrices = cameras.cam_to_world.clone()
    matrices[:, :3, :3] = turn @ matrices[:, :3, :3]
    matrices[:, :3, 3] = 3.0 * (turn @ matrices[:, :3, 3, None])[..., 0] + torch.tensor([5.0, -2.0, 1.0])
    images = torch.zeros(5, HEIGHT, WIDTH, 3)
    moved = cameras_at(matrices, cameras.intrinsics, WIDTH, HEIGHT)
    views = ViewSet(name="x", images=images, alpha=images[..., :1], cameras=moved, names=tuple("abcde"))
    torch.testing.assert_close(look_at_point(moved), torch.tensor([5.0, -2.0, 1.0]), atol=1e-4, rtol=0)
    back = normalised(views).cameras
    torch.testing.assert_close(back.distance, cameras.distance, atol=1e-4, rtol=0)
    turned = (back.azimuth_deg - cameras.azimuth_deg).remainder(360.0)
    assert float((turned - turned[0]).abs().max()) < 0.01
    assert float((back.elevation_deg - cameras.elevation_deg).abs().max()) < 0.01
    with pytest.raises(AssetError, match="no rotation and translation"):
        cameras_at(2.0 * matrices, cameras.intrinsics, WIDTH, HEIGHT)


def test_split_and_pick() -> None:
    images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, HEIGHT, WIDTH, 3)
    views = ViewSet(
        name="x", images=images, alpha=images[..., :1], cameras=ring(6), names=tuple("abcdef"), relit={"l": images}
    )
    training, held_out = views.split(3)
    assert held_out.names == ("a", "d") and training.names == ("b", "c", "e", "f")
    assert training.relit["l"][2, 0, 0, 0] == 4 and len(training.cameras) == 4
    torch.testing.assert_close(training.cameras.azimuth_deg[0], views.cameras.azimuth_deg[1])
    with pytest.raises(AssetError, match="cannot be split at every 7th"):
        views.split(7)
