"""The verb `render --light`: what reaches the relighting, and what is refused before anything slow."""

from __future__ import annotations

from pathlib import Path

import pytest

import launch


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What `relight` was called with; it writes one small file."""
    from systems import relighting

    calls = []

    def relight(folder: Path, light: str, **options):
        calls.append((folder, light, options))
        file = tmp_path / "relit.png"
        file.write_bytes(b"png")
        return [file], "This run has no materials."

    monkeypatch.setattr(relighting, "relight", relight)
    return calls


def test_options_reach_the_relighting_and_files_are_listed(asked, capsys):
    line = (
        "render some/run --light a.exr --views 3 --size 64 --elevation-deg 10 --turn light --roughness 0.2 --metallic 1"
    )
    assert launch.execute([*line.split(), "--background", "light", "--convention", "threejs"]) == 0
    ((folder, light, options),) = asked
    assert (folder, light) == (Path("some/run"), "a.exr")
    assert options == {
        "views": 3, "size": 64, "elevation_deg": 10.0, "turn": "light", "roughness": 0.2, "metallic": 1.0,
        "background": None, "convention": "threejs",
    }  # fmt: skip
    shown = capsys.readouterr()
    assert "relit.png" in shown.out and "no materials" in shown.err


def test_what_is_left_out_keeps_its_default(asked):
    assert launch.execute(["render", "some/run", "--light", "studio", "--background", "0.5"]) == 0
    ((_, _, options),) = asked
    assert options == {"views": 60, "size": 256, "elevation_deg": 20.0, "background": 0.5}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--turn", "light"], "--turn is about another light, but --light was not given. Add --light studio"),
        (["--background", "1"], "--background is about another light"),
        (["--light", "studio", "--background", "white"], "--background is 'white', but must be a grey from 0 to 1 or 'light'"),
        (["--light", "studio", "--background", "2"], "--background is '2'"),
        (["--light", "studio", "--views", "0"], "Invalid value for '--views'"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_line(words, message, capsys):
    assert launch.execute(["render", "nowhere", *words]) == 2
    assert message in capsys.readouterr().err


def test_wrong_values_of_relighting_are_one_line(capsys):
    assert launch.execute(["render", "nowhere", "--light", "studioo"]) == 2
    assert "There is no light 'studioo'. Use 'studio'" in capsys.readouterr().err
    assert launch.execute(["render", "nowhere", "--light", "studio", "--roughness", "2"]) == 2
    assert "roughness is 2, but 0 to 1 is allowed" in capsys.readouterr().err


def test_exr_without_the_package_says_how_to_get_it(monkeypatch, tmp_path, capsys):
    file = tmp_path / "studio light.exr"
    file.write_bytes(b"\x76\x2f\x31\x01" + bytes(20))
    monkeypatch.setitem(__import__("sys").modules, "OpenEXR", None)
    assert launch.execute(["render", "nowhere", "--light", str(file)]) != 0
    said = capsys.readouterr().err
    assert "needs the package OpenEXR" in said and "pip install 'sds3d[exr]'" in said and ".hdr" in said


def test_a_file_needs_a_light(tmp_path, capsys):
    file = tmp_path / "asset.glb"
    file.write_bytes(b"glTF")
    assert launch.execute(["render", str(file)]) == 2
    assert "is a file, which has no light of its own. Add --light studio" in capsys.readouterr().err
    assert launch.execute(["render", str(file), "--light", "constant"]) == 2
    assert "asset.glb" in capsys.readouterr().err


def test_a_distilled_run_without_a_light_is_shown_in_the_one_it_found(asked, tmp_path, capsys):
    from sds3d.config.materials import dump_materials, load_materials

    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(dump_materials(load_materials()))
    (run / "run.json").write_text("{}")
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").write_bytes(b"")
    assert launch.execute(["render", str(run)]) == 2
    assert "has no light of its own yet" in capsys.readouterr().err
    (run / "export").mkdir()
    (run / "export" / "light.hdr").write_bytes(b"light")
    assert launch.execute(["render", str(run), "--views", "3"]) == 0
    assert asked == [(run, str(run / "export" / "light.hdr"), {"views": 3, "size": 256, "elevation_deg": 20.0})]
