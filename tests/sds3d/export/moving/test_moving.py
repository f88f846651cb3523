"""Moving files, read again by foreign readers and sampled to the same positions. D2, D3, D7."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest

from sds3d.conventions import WORLD_TO_GLTF
from sds3d.errors import AssetError, ConfigError, ShapeError
from sds3d.export.moving.clip import write_clip, write_clip_sheet
from sds3d.export.moving.gltf import positions_at, write_moving_mesh
from sds3d.export.moving.splat_sequence import read_splat_sequence, write_splat_sequence
from sds3d.export.sketch.sketch import Motion
from sds3d.export.splats import Splats
from sds3d.meshing.mesh import Material, Mesh

RNG = np.random.default_rng(0)
FACES = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])


def tetrahedron(is_textured=False):
    vertices = np.array([[0.0, 0.5, -0.3], [-0.5, -0.4, -0.3], [0.5, -0.4, -0.3], [0.0, 0.0, 0.6]])
    colors = np.array([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.8, 0.8, 0.1]])
    if not is_textured:
        return Mesh(vertices, FACES, colors)
    uvs = RNG.random((12, 2)).astype(np.float32)
    material = Material(base_color=RNG.random((4, 4, 3)).astype(np.float32))
    return Mesh(vertices, FACES, colors, uvs, np.arange(12).reshape(4, 3), material)


def motion(frames=5, is_loop=False, bends=True, seed=1):
    rng = np.random.default_rng(seed)
    angle = np.linspace(0.0, 1.2, frames)
    axis = np.array([0.6, 0.0, 0.8])
    quats = np.concatenate([np.cos(angle / 2)[:, None], np.sin(angle / 2)[:, None] * axis], axis=1)
    scale = np.exp(0.3 * np.sin(angle))[:, None]
    shift = angle[:, None] * [0.2, -0.1, 0.3]
    offsets = 0.1 * rng.standard_normal((frames, 4, 3))
    offsets[0] = 0.0
    return Motion(
        similarity=np.concatenate([scale, quats, shift], axis=1),
        centre=np.array([0.1, 0.2, -0.1]),
        offsets=offsets if bends else None,
        fps=10.0,
        is_loop=is_loop,
    )


class Played:
    """A GLB file as the foreign package pygltflib reads it, animated by the rules of the glTF 2.0 specification."""

    def __init__(self, path):
        pygltflib = pytest.importorskip("pygltflib")
        self.file = pygltflib.GLTF2().load(str(path))
        self.blob = self.file.binary_blob()

    def values(self, number):
        accessor = self.file.accessors[number]
        view = self.file.bufferViews[accessor.bufferView]
        start = (view.byteOffset or 0) + (accessor.byteOffset or 0)
        assert start % 4 == 0
        width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}[accessor.type]
        found = np.frombuffer(self.blob, "<f4", accessor.count * width, start).reshape(-1, width).astype(np.float64)
        if accessor.min:  # read as [] where there is none
            assert np.allclose(found.min(axis=0), accessor.min) and np.allclose(found.max(axis=0), accessor.max)
        return found

    def channel(self, node, path, time, default):
        for channel in self.file.animations[0].channels if self.file.animations else ():
            if (channel.target.node, channel.target.path) == (node, path):
                sampler = self.file.animations[0].samplers[channel.sampler]
                assert sampler.interpolation == "LINEAR"
                keys = self.values(sampler.input)[:, 0]
                values = self.values(sampler.output).reshape(len(keys), -1)
                found = np.array([np.interp(time, keys, column) for column in values.T])
                return found / np.linalg.norm(found) if path == "rotation" else found  # at keys: slerp's own value
        return np.asarray(default, np.float64)

    def positions(self, time):
        """Return the vertices of the scene at a time in seconds, in glTF's world."""
        from scipy.spatial.transform import Rotation

        primitive = self.file.meshes[0].primitives[0]
        points = self.values(primitive.attributes.POSITION)
        weights = self.channel(1, "weights", time, self.file.meshes[0].weights or [])
        for weight, target in zip(weights, primitive.targets or [], strict=True):
            points = points + weight * self.values(target["POSITION"])
        for number in (1, 0):
            node = self.file.nodes[number]
            scale = self.channel(number, "scale", time, node.scale or [1.0, 1.0, 1.0])
            turn = self.channel(number, "rotation", time, node.rotation or [0.0, 0.0, 0.0, 1.0])
            shift = self.channel(number, "translation", time, node.translation or [0.0, 0.0, 0.0])
            points = (points * scale) @ Rotation.from_quat(turn).as_matrix().T + shift
        return points


@pytest.mark.parametrize("is_loop", [False, True])
@pytest.mark.parametrize("bends", [False, True])
def test_a_foreign_reader_plays_the_same_positions_at_every_frame(tmp_path, bends, is_loop):
    """D3."""
    mesh, path = tetrahedron(), motion(is_loop=is_loop, bends=bends)
    played = Played(write_moving_mesh(tmp_path / "moving.glb", mesh, path))
    axes = np.array(WORLD_TO_GLTF)
    for frame in range(len(path)):
        expected = positions_at(mesh, path, frame) @ axes.T
        assert np.abs(played.positions(frame / path.fps) - expected).max() < 1e-6
    if is_loop:  # the last interval leads back to the first frame
        assert np.abs(played.positions(len(path) / path.fps) - positions_at(mesh, path, 0) @ axes.T).max() < 1e-6
    assert np.abs(played.positions(0.0) - played.positions(0.2)).max() > 0.05


def test_between_frames_it_turns_about_its_own_centre(tmp_path):
    path = motion(bends=False)
    similarity = path.similarity.copy()
    similarity[:, 0], similarity[:, 5:] = 1.0, 0.0
    path = Motion(similarity=similarity, centre=path.centre, fps=10.0, is_loop=False)
    played = Played(write_moving_mesh(tmp_path / "turning.glb", tetrahedron(), path))
    centre = np.array(WORLD_TO_GLTF) @ path.centre
    lengths = [np.linalg.norm(played.positions(time) - centre, axis=1) for time in (0.0, 0.05, 0.13, 0.4)]
    assert np.abs(np.array(lengths) - lengths[0]).max() < 1e-6


def test_textured_meshes_are_split_at_seams_and_keep_their_picture(tmp_path):
    mesh, path = tetrahedron(is_textured=True), motion()
    played = Played(write_moving_mesh(tmp_path / "textured.glb", mesh, path))
    assert played.file.images and len(played.positions(0.0)) == 12
    expected = positions_at(mesh, path, 3) @ np.array(WORLD_TO_GLTF).T
    found = played.positions(0.3)
    nearest = np.linalg.norm(found[:, None] - expected, axis=2).min(axis=1)
    assert nearest.max() < 1e-6


def test_trimesh_opens_the_first_frame_where_it_should_be(tmp_path):
    import trimesh

    mesh, path = tetrahedron(), motion()
    scene = trimesh.load(write_moving_mesh(tmp_path / "moving.glb", mesh, path))
    found = scene.to_geometry().vertices
    expected = positions_at(mesh, path, 0) @ np.array(WORLD_TO_GLTF).T
    assert np.linalg.norm(found[:, None] - expected, axis=2).min(axis=1).max() < 1e-6


def test_many_frames_share_a_basis_of_few_targets(tmp_path):
    rng = np.random.default_rng(3)
    times = np.linspace(0.0, 1.0, 70)
    offsets = np.einsum("fk,kvc->fvc", np.stack([times, times**2], axis=1), 0.2 * rng.standard_normal((2, 4, 3)))
    still = np.tile([1.0, 1.0, 0, 0, 0, 0, 0, 0], (70, 1))
    path = Motion(similarity=still, centre=np.zeros(3), offsets=offsets, fps=10.0, is_loop=False)
    mesh = tetrahedron()
    played = Played(write_moving_mesh(tmp_path / "long.glb", mesh, path))
    assert len(played.file.meshes[0].weights) <= 2
    scale = np.sqrt(np.square(offsets).mean())
    for frame in (0, 33, 69):
        expected = positions_at(mesh, path, frame) @ np.array(WORLD_TO_GLTF).T
        error = np.sqrt(np.square(played.positions(frame / 10.0) - expected).mean())
        assert error < 0.03 * scale  # 1e-4 of the energy is left out


def test_wrong_motions_are_refused(tmp_path):
    mesh, path = tetrahedron(), motion()
    with pytest.raises(AssetError, match=r"suffix is '\.obj'.*'\.glb'"):
        write_moving_mesh(tmp_path / "moving.obj", mesh, path)
    with pytest.raises(AssetError, match="not finite"):
        broken = path.similarity.copy()
        broken[1, 2] = np.nan
        write_moving_mesh(tmp_path / "a.glb", mesh, Motion(similarity=broken, centre=path.centre))
    with pytest.raises(ShapeError, match=r"\[frames, 4, 3\]"):
        wrong = Motion(similarity=path.similarity, centre=path.centre, offsets=path.offsets[:, :3])
        write_moving_mesh(tmp_path / "a.glb", mesh, wrong)


def splats(count=5, shift=0.0):
    rng = np.random.default_rng(2)
    means = rng.standard_normal((count, 3)) + shift
    return Splats.of(means, rng.standard_normal((count, 4)), rng.standard_normal((count, 3)) - 3.0,
                     rng.standard_normal(count), rng.standard_normal((count, 3)))  # fmt: skip


def test_a_sequence_of_splats_keeps_order_and_values_and_opens_elsewhere(tmp_path):
    """D2."""
    plyfile = pytest.importorskip("plyfile")
    frames = [splats(shift=0.1 * frame) for frame in range(3)]
    folder = write_splat_sequence(tmp_path / "clip", frames, fps=12, is_loop=True)
    found, fps, is_loop = read_splat_sequence(folder)
    assert (fps, is_loop) == (12.0, True)
    for frame, again in zip(frames, found, strict=True):
        assert np.abs(frame.means - again.means).max() < 1e-6 and np.abs(frame.sh0 - again.sh0).max() < 1e-6
    facts = json.loads((folder / "sequence.json").read_text())
    assert facts["count"] == 5 and facts["frames"] == [f"frame_0000{k}.ply" for k in range(3)]
    assert np.allclose(facts["box"][1], np.max([frame.means.max(axis=0) for frame in frames], axis=0), atol=1e-6)
    table = plyfile.PlyData.read(folder / "frame_00002.ply")["vertex"]
    assert np.allclose(np.stack([table[axis] for axis in "xyz"], axis=1), frames[2].means)


def test_wrong_sequences_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="clip of 1 frame"):
        write_splat_sequence(tmp_path, [splats()])
    with pytest.raises(ConfigError, match="fps is 0"):
        write_splat_sequence(tmp_path, [splats(), splats()], fps=0)
    with pytest.raises(AssetError, match="4 to 5 Gaussians"):
        write_splat_sequence(tmp_path, [splats(), splats(4)])
    with pytest.raises(AssetError, match=r"sequence\.json.*export it again"):
        read_splat_sequence(tmp_path)


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_clips_have_their_frames_and_size_when_read_back(tmp_path, suffix):
    """D7."""
    import av

    frames = np.linspace(0, 1, 6)[:, None, None, None] * np.ones((6, 16, 20, 3))
    with av.open(str(write_clip(tmp_path / f"clip{suffix}", frames, fps=8, upscale=2))) as container:
        found = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(found) == 6 and found[0].shape == (32, 40, 3)
    assert np.all(np.diff([picture.mean() for picture in found]) > 30)
    with pytest.raises(ConfigError, match="clip of 1 frame"):
        write_clip(tmp_path / f"one{suffix}", frames[:1])
    with pytest.raises(ShapeError, match=r"\[frames, height, width, 3\]"):
        write_clip(tmp_path / f"one{suffix}", frames[0])


def test_a_sheet_shows_clips_in_rows_and_frames_in_columns(tmp_path):
    from PIL import Image

    clips = np.arange(6).reshape(2, 3, 1, 1, 1) / 10.0 * np.ones((2, 3, 4, 5, 3))
    picture = np.asarray(Image.open(write_clip_sheet(tmp_path / "sheet.png", clips)))
    assert picture.shape == (8, 15, 3)
    assert np.allclose(picture[::4, ::5, 0] / 255.0, np.arange(6).reshape(2, 3) / 10.0, atol=0.003)
    with pytest.raises(ShapeError, match="clips"):
        write_clip_sheet(tmp_path / "sheet.png", clips[0])


VALIDATE = """
const validator = require(process.argv[1]), fs = require("fs");
validator.validateBytes(new Uint8Array(fs.readFileSync(process.argv[2]))).then(report => console.log(JSON.stringify(report)));
"""


@pytest.mark.parametrize("is_textured", [False, True])
def test_the_khronos_validator_finds_nothing(tmp_path, node_package, is_textured):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the Khronos validator runs in it (see docs/meshes.md)")
    file = write_moving_mesh(tmp_path / "moving.glb", tetrahedron(is_textured), motion(is_loop=True))
    call = [node, "-e", VALIDATE, str(node_package("gltf-validator")), str(file)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["issues"]["messages"] == []
