"""Sketches and clips that cannot be made, asked for on the command line: one line in four parts, exit code 2, no run folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import launch

STROKE = {"points": [[0, 0, 0.1 * k] for k in range(4)], "half_width": 0.01, "opacity": 1, "colour": [0, 0, 0]}


def write(path: Path, strokes: list[dict[str, object]]) -> Path:
    path.write_text(json.dumps({"format": "sds3d.sketch", "version": 1, "strokes": strokes}))
    return path


def said(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what the program prints to stderr; it must refuse before it makes a folder."""
    code = launch.execute(["generate", "a red robot waving", "--tiny", "--out", str(tmp_path / "run"), *arguments])
    assert code == 2 and not (tmp_path / "run").exists()
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    return printed


@pytest.mark.parametrize("recipe", ["sketch", "4doodle", "livesketch"])
def test_no_strokes_are_refused(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = said(["--recipe", recipe, "renderer.count=0"], tmp_path, capsys)
    assert "'renderer.count' is 0, which is out of range: allowed is whole number in [1, 10000]. Choose" in printed


def test_a_sketch_without_strokes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = write(tmp_path / "empty.json", [])
    printed = said(["--recipe", "sketch", f"renderer.init={empty}"], tmp_path, capsys)
    assert "it has 0 strokes, but at least 1 is needed" in printed and "export one with --format json" in printed


def test_strokes_behind_every_camera_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    far = {**STROKE, "points": [[9, 0.1 * k, 0] for k in range(4)]}
    behind = write(tmp_path / "behind.json", [far, far])
    printed = said(["--recipe", "sketch", f"renderer.init={behind}"], tmp_path, capsys)
    assert "reaches 9" in printed and "the cameras stand 2.3 away" in printed and "renderer.init_size=0.8" in printed


@pytest.mark.parametrize("recipe", ["4doodle", "livesketch"])
def test_a_clip_of_one_frame_is_refused(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = said(["--recipe", recipe, "stages.motion.motion.frames=1"], tmp_path, capsys)
    assert "'stages.motion.motion.frames' is 1, which is out of range: allowed is whole number in [2, 1000]" in printed


def test_more_frames_than_the_prior_takes_are_refused_before_the_first_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ["stages.motion.prior.path=toybox-clips", "stages.motion.motion.frames=100"]
    printed = said(["--recipe", "4doodle", *keys], tmp_path, capsys)
    assert "has 100 frames, but the video prior 'toybox-clips' takes any number of frames from 2 to 64" in printed
    assert "Set frames to 64" in printed
