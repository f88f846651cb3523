"""The verbs about models: fetch, prior sample and info by name, doctor of a recipe; and what a run remembers of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import launch
from sds3d import report
from sds3d.config import load_recipe
from sds3d.guidance.requirements import check_recipe
from sds3d.priors.catalog import catalog


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """Return what a command line prints, having checked its exit code."""
    assert launch.execute(list(arguments)) == code
    printed = capsys.readouterr()
    return printed.out if code == 0 else printed.err or printed.out


def test_the_list_shows_every_model_with_licence_and_size(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "fetch", "--list")
    for name, entry in catalog().items():
        assert f"\n{name}" in f"\n{text}" and entry.licence in text
    assert "toybox (on this machine)" in text and "sd21-base (on" not in text and "~2.6 GB" in text
    rows = json.loads(said(capsys, "fetch", "--list", "--json"))
    assert [row["name"] for row in rows] == list(catalog())
    assert said(capsys, "fetch") == text  # without a name there is nothing to fetch, so it lists


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(said(capsys, "fetch", "--help").split())
    for word in ("sds3d fetch sd21-base", "prior.path=sd21-base", "never pickled", "HF_HUB_OFFLINE"):
        assert word in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fetch", "sdxl-bse"], "no model 'sdxl-bse' in the catalog. Did you mean"),
        (["prior", "sample", "a mug", "--prior", "sd15"], "'sd15' (stable-diffusion-v1-5/"),
        (["prior", "info", "flux-dev"], "fetch flux-dev' once (accept its licence at https://"),
        (["generate", "a mug", "--recipe", "dreamfusion"], "'dreamfusion' needs Stable Diffusion 2.1-base"),
        (["generate", "a mug", "prior.path=controlnet-depth"], "fetch controlnet-depth"),
        (["generate", "a mug", "prior.image=nowhere.png"], "nowhere.png' does not exist. Give an existing file"),
    ],
)
def test_errors_are_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    text = said(capsys, *arguments, code=2)
    assert message in text and text.count("\n") == 1


def test_offline_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE forbids downloads" in said(capsys, "fetch", "sd15", code=2)


def test_the_bundled_prior_is_there_already(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "fetch", "toybox")
    assert "licence Apache-2.0" in text and "prior.path=toybox" in text


def test_doctor_of_a_recipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sds3d.hardware.memory_gb", lambda: (16.0, 16.0))
    rows = json.loads(said(capsys, "doctor", "--recipe", "quickstart", "--json"))
    assert [row["state"] for row in rows] == ["ok", "ok"] and "GB needed" in rows[1]["detail"]
    said(capsys, "doctor", "--recipe", "mvdream-sd", code=1)
    tiny = json.loads(
        said(capsys, "doctor", "--recipe", "mvdream-sd", "--overlay", "tiny", "--json", "cameras.views=1")
    )
    assert {row["state"] for row in tiny} == {"ok"}


def test_a_run_records_licence_and_revision_of_every_model() -> None:
    recipe = load_recipe("mvdream-sd", ["tiny"], [], {"prompt.text": ("the prompt", "a red mug")})
    kept = report.record(recipe, check_recipe(recipe), ["sds3d"], None)
    assert kept["licences"] == {"sds3d": "Apache-2.0", "prior": "Apache-2.0"}
    (prior,) = kept["priors"]  # used twice, said once
    assert (prior["name"], prior["licence"]) == ("toybox", "Apache-2.0") and prior["revision"].startswith("sums-")


def test_a_run_of_two_priors_under_tiny(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = [
        "renderer.count=60",
        "export.formats=[ply]",
        "export.turntable_views=4",
        "export.size=24",
        "export.mesh_resolution=16",
    ]
    text = said(
        capsys, "generate", "a red mug", "--recipe", "mvdream-sd", "--tiny", "--max-steps", "2", "--out", "run", *keys
    )
    assert "splats.ply" in text
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["status"] == "done" and [prior["licence"] for prior in info["priors"]] == ["Apache-2.0"]
