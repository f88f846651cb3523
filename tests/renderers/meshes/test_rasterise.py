"""Dispatch, refusals, and devices without data."""

from __future__ import annotations

import importlib.util
import inspect

import pytest
import torch

from renderers.meshes import nvdiffrast_backend, pytorch3d_backend
from renderers.meshes import rasterise as module
from renderers.meshes.antialias import antialias
from renderers.meshes.interpolate import interpolate
from renderers.meshes.rasterise import available_backends, choose_backend, rasterise
from renderers.meshes.texture import footprint, sample_texture
from sds3d.errors import BackendError, ConfigError, ShapeError

TRIANGLE = torch.tensor([[0, 1, 2]])


def clip_of(dtype=torch.float32):
    return torch.tensor([[[-1.0, -1, 0, 1], [1, -1, 0, 1], [0, 1, 0, 1]]], dtype=dtype)


def test_auto_takes_the_compiled_path_for_single_precision_on_the_cpu():
    assert rasterise(clip_of(), TRIANGLE, 4, 4).backend == "cpu"
    assert rasterise(clip_of(torch.float64), TRIANGLE, 4, 4).backend == "reference"
    assert rasterise(clip_of(), TRIANGLE, 4, 4, backend="reference").backend == "reference"


def test_auto_does_without_what_is_missing(monkeypatch):
    monkeypatch.setattr(module.cpu, "probe", lambda: "numba is not installed: pip install numba")
    assert choose_backend("auto", clip_of()) == "reference"
    with pytest.raises(
        BackendError, match=r"'cpu' cannot run here: numba is not installed: pip install numba\. Or use"
    ):
        choose_backend("cpu", clip_of())


def test_back_ends_are_listed_with_reason_and_fix():
    states = available_backends()
    assert list(states) == ["reference", "cpu", "nvdiffrast", "pytorch3d"]
    assert states["reference"] == states["cpu"] == "available"
    for name in ("nvdiffrast", "pytorch3d"):
        reason, _, fix = states[name].partition(": ")
        assert states[name] == "available" or (name in reason and fix)


def test_bfloat16_keeps_its_precision_under_autocast():
    plain = rasterise(clip_of(), TRIANGLE, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = rasterise(clip_of(), TRIANGLE, 4, 4)
    assert torch.equal(plain.barycentric, cast.barycentric)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"clip": torch.zeros(3, 4)}, ShapeError, r"clip has shape \[3, 4\], but \[B, V, 4\] is needed"),
        ({"faces": torch.zeros(3, dtype=torch.int64)}, ShapeError, r"faces has shape \[3\], but \[F, 3\]"),
        ({"clip": clip_of().long()}, ConfigError, "clip is int64, but floating point is needed. Call .float()"),
        ({"faces": TRIANGLE.int()}, ConfigError, "faces is int32, but int64 is needed. Call .long()"),
        ({"faces": TRIANGLE + 1}, ConfigError, "faces names vertex 3, but there are 3, numbered from 0"),
        ({"faces": TRIANGLE - 1}, ConfigError, "faces names vertex -1, but there are 3"),
        ({"faces": TRIANGLE.to("meta")}, ConfigError, "faces is on meta, but the vertices are on cpu"),
        ({"clip": clip_of() / 0}, ConfigError, r"clip is -inf at \[0, 0, 0\].*must be finite"),
        ({"clip": clip_of() * torch.nan}, ConfigError, r"clip is nan at \[0, 0, 0\] \(12 such values\)"),
        ({"height": 0}, ConfigError, "image size is 4x0, but both must be at least 1"),
        ({"backend": "nvdifrast"}, ConfigError, "backend is 'nvdifrast', which is unknown. Use 'nvdiffrast'"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wrong_arguments_are_named(change, error, message, dtype):
    given = {"clip": clip_of(dtype), "faces": TRIANGLE, "height": 4, "width": 4, "backend": "auto"} | change
    with pytest.raises(error, match=message):
        rasterise(**given)


def test_interpolation_refuses_values_of_another_mesh():
    drawn = rasterise(clip_of(), TRIANGLE, 4, 4)
    with pytest.raises(ShapeError, match=r"values has shape \[5, 3, 2\], but \[V, K\] or \[1, V, K\] is needed"):
        interpolate(torch.zeros(5, 3, 2), TRIANGLE, drawn)
    with pytest.raises(ConfigError, match="faces names vertex 2, but there are 2"):
        interpolate(torch.zeros(2, 2), TRIANGLE, drawn)


def test_a_wanted_back_end_gets_its_kind_of_tensors(monkeypatch):
    with pytest.raises(BackendError, match="was given float64 tensors on cpu, but needs float32 on cpu"):
        choose_backend("cpu", clip_of(torch.float64))
    monkeypatch.setattr(nvdiffrast_backend, "probe", lambda: "available")
    with pytest.raises(BackendError, match="'nvdiffrast' was given float32 tensors on cpu, but needs float32 on cuda"):
        choose_backend("nvdiffrast", clip_of())


def test_a_whole_step_runs_without_data():
    meta = torch.device("meta")
    clip = torch.empty(2, 30, 4, device=meta, requires_grad=True)
    faces = torch.empty(20, 3, dtype=torch.int64, device=meta)
    drawn = rasterise(clip, faces, 8, 12)
    colours = interpolate(torch.empty(30, 3, device=meta, requires_grad=True), faces, drawn)
    uv = torch.empty(30, 2, device=meta)
    reach = footprint(uv, faces, drawn, clip, faces)
    texels = sample_texture(torch.empty(16, 16, 3, device=meta), interpolate(uv, faces, drawn), reach)
    image = antialias(colours + texels, drawn, clip, faces, steps=2)
    image.sum().backward()
    assert image.shape == (2, 8, 12, 3) and drawn.depth.shape == (2, 8, 12) and drawn.face.dtype == torch.int64
    assert clip.grad.shape == clip.shape


def test_foreign_face_numbers_become_ours():
    drawn = torch.zeros(1, 2, 2, 4)
    drawn[0, 0, 0, 3], drawn[0, 1, 1, 3] = 1, 7
    assert nvdiffrast_backend.face_rows(drawn).tolist() == [[[0, -1], [-1, 6]]]
    counted = torch.tensor([[[0, -1]], [[-1, 9]]])[..., None]
    assert pytorch3d_backend.face_rows(counted, 5).tolist() == [[[0, -1]], [[-1, 4]]]


def test_pytorch3d_is_given_its_own_screen_space():
    # +x left, +y up, the shorter side from -1 to 1.
    clip = torch.tensor([[[2.0, 1.0, 0.3, 2.0], [0.0, 0.0, 0.0, 0.0]]])
    points = pytorch3d_backend.screen_points(clip, height=10, width=20)
    assert points[0, 0].tolist() == [-2.0, -0.5, 2.0] and points.isfinite().all()


def test_calls_fit_the_signatures_of_the_foreign_packages():
    checked = 0
    clip, faces = clip_of(), TRIANGLE
    if importlib.util.find_spec("nvdiffrast"):
        foreign = importlib.import_module("nvdiffrast.torch")
        inspect.signature(foreign.rasterize).bind(None, **nvdiffrast_backend.call_arguments(clip, faces, 4, 6))
        checked += 1
    if importlib.util.find_spec("pytorch3d"):
        foreign = importlib.import_module("pytorch3d.renderer.mesh.rasterize_meshes")
        inspect.signature(foreign.rasterize_meshes).bind(**pytorch3d_backend.call_arguments(None, 4, 6))
        checked += 1
    if not checked:
        pytest.skip("neither nvdiffrast nor pytorch3d is installed")


@pytest.mark.parametrize("backend", ["nvdiffrast", "pytorch3d"])
def test_an_optional_back_end_sees_the_same_faces(backend, sphere_clip):
    device = "cuda" if backend == "nvdiffrast" else "cpu"
    state = available_backends()[backend]
    if state != "available":
        pytest.skip(state)
    clip, faces = sphere_clip(64)
    drawn = rasterise(clip.to(device), faces.to(device), 48, 64, backend=backend)
    plain = rasterise(clip, faces, 48, 64, backend="reference")
    assert (drawn.face.cpu() != plain.face).float().mean() < 0.02
