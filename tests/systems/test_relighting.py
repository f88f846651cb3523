"""`render RUN --light`: the files, what turns, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from renderers.gbuffer import from_mesh
from renderers.gbuffer_assets import shown_by
from renderers.surface_conversion import sphere_mesh
from sds3d.errors import AssetError, ConfigError
from sds3d.shading.deferred import ShadeSettings
from systems import relighting


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose asset is a grey ball, opened without a checkpoint; coarse maps, to be quick."""
    mesh = sphere_mesh(0.6, 12)
    vertices, faces = torch.as_tensor(mesh.vertices).float(), torch.as_tensor(mesh.faces).long()
    plain = {"base_colour": 0.5 * torch.ones(len(vertices), 3)}
    plain |= {"roughness": torch.ones(len(vertices), 1), "metallic": torch.zeros(len(vertices), 1)}
    lit = relighting.Lit(
        view=lambda cameras: from_mesh(vertices, faces, plain, cameras),
        shader=shown_by(ShadeSettings()),
        transform="srgb",
        distance=2.5,
        fov_deg=45.0,
        device=torch.device("cpu"),
        has_materials=False,
    )
    monkeypatch.setattr(relighting, "_open", lambda folder, guess: lit)
    monkeypatch.setattr(relighting, "LIGHT_RESOLUTION", 8)
    return tmp_path


def test_a_film_and_its_first_picture_are_written(run):
    files, line = relighting.relight(run, "lamps", views=2, size=32)
    assert [file.name for file in files] == ["relit-lamps-camera-2x32px.mp4", "relit-lamps-camera-2x32px.png"]
    assert all(file.stat().st_size > 100 for file in files)
    assert "no materials" in line and "roughness 0.6, metallic 0" in line


def test_a_turning_light_passes_from_left_to_right(run, monkeypatch):
    """The sun of "sunset" stands at 60 degrees: turned by 30 it is on +Y, to the right of a camera on +X."""
    import sds3d.export.video as video

    frames = []
    monkeypatch.setattr(video, "write_turntable", lambda path, pictures: frames.append(pictures) or path)
    relighting.relight(run, "sunset", views=12, size=32, turn="light", elevation_deg=0.0)
    (pictures,) = frames
    ball = pictures[:, 8:24, 8:24].astype(float).mean(axis=(1, 3))
    lean = ball[:, 8:].mean(axis=1) - ball[:, :8].mean(axis=1)
    assert int(lean.argmax()) in (0, 1, 2) and int(lean.argmin()) in (6, 7, 8)
    assert math.isclose(lean[1], -lean[7], rel_tol=0.3)


def test_wrong_words_and_lights_are_refused(run):
    with pytest.raises(ConfigError, match=r"turn is 'lights', which is unknown. Use 'light'"):
        relighting.relight(run, "studio", turn="lights")
    with pytest.raises(AssetError, match=r"There is no light 'studioo'"):
        relighting.relight(run, "studioo")


def test_a_folder_without_a_run_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(relighting, "LIGHT_RESOLUTION", 4)
    with pytest.raises(AssetError, match=r"There is no run|is not a run folder"):
        relighting.relight(tmp_path / "nothing", "constant")


def test_a_run_with_materials_is_lit_by_them(tmp_path, monkeypatch):
    """A run of radiance_to_pbr, saved before its first step: a white disc that faces the front camera."""
    from renderers.gaussians.parameters import empty
    from sds3d.config.materials import dump_materials, load_materials
    from systems.checkpoint import write_checkpoint
    from systems.radiance_to_pbr import RadianceToPbr

    config = load_materials(overrides=["shading.light_resolution=4", "shading.visibility=false"])
    cloud = empty(1, torch.zeros(1))
    cloud.log_scales.copy_(torch.tensor([[-5.0, -1.0, -1.0]]))
    cloud.opacity_logits.fill_(12.0)
    system = RadianceToPbr(config, cloud)
    system.cloud.fill_("base_colour", 0.5)
    system.cloud.fill_("metallic", 0.01)
    (tmp_path / "checkpoints").mkdir()
    recipe = dump_materials(config)
    (tmp_path / "recipe.yaml").write_text(recipe)
    write_checkpoint(tmp_path / "checkpoints" / "last.ckpt", {"system": system.state()}, recipe)
    monkeypatch.setattr(relighting, "LIGHT_RESOLUTION", 4)
    files, line = relighting.relight(tmp_path, "constant", views=1, size=32, elevation_deg=0.0)
    assert [file.name for file in files] == ["relit-constant-camera-1x32px.png"] and line == ""
    from PIL import Image

    with Image.open(files[0]) as picture:
        middle = picture.getpixel((16, 16))
    assert all(120 < value < 230 for value in middle) and max(middle) - min(middle) <= 2


def test_a_mesh_file_is_lit_and_pictures_lie_beside_it(tmp_path, monkeypatch):
    """Our own export, and a plain one of another size: it is brought before the camera, and its material is guessed."""
    from PIL import Image

    from sds3d.export.mesh import write_mesh

    monkeypatch.setattr(relighting, "LIGHT_RESOLUTION", 4)
    mesh = sphere_mesh(0.6, 12)
    small, large = (write_mesh(tmp_path / name, mesh) for name in ("ball.glb", "large.ply"))
    write_mesh(large, sphere_mesh(60.0, 12))
    wide = []
    for file in (small, large):
        files, line = relighting.relight(file, "constant", views=1, size=32, elevation_deg=0.0, background=0.0)
        assert [path.name for path in files] == [f"{file.stem}-relit-constant-camera-1x32px.png"]
        assert line.startswith("This file has no materials: its colours are taken as base colours (roughness 0.6")
        with Image.open(files[0]) as picture:
            wide.append(sum(picture.getpixel((column, 16)) != (0, 0, 0) for column in range(32)))
    assert wide[0] in (18, 19, 20) and wide[1] in range(27, 32)  # radii 0.6 and 0.9 at a distance of 2.5
