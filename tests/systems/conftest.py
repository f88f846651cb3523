"""Tiny runs: an exact prior that wants a red picture, a few Gaussians, a few steps."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from sds3d.config import Recipe, load_recipe
from sds3d.priors.exact import ExactPrior, Mixture
from sds3d.run import RunFolder

SIZE = 16
RED = (0.9, 0.1, 0.1)
KEYS = (
    "renderer.count=60",
    f"cameras.size={SIZE}",
    "cameras.views=2",
    "training.steps=8",
    "training.preview_every=4",
    "renderer.density.every=2",
    "renderer.density.start=0",
    "renderer.density.stop=1",
    "export.formats=[ply]",
    "export.size=24",
    "export.turntable_views=4",
    "export.mesh_resolution=16",
    "regularisers.binary=0.1",
)


def exact_prior(recipe: Recipe, device: torch.device | str = "cpu", config: object = None) -> ExactPrior:
    """Return a prior under which every picture of the prompt is red all over, and other pictures are grey."""
    prompt = recipe.prompt.build()
    red = torch.tensor(RED).view(3, 1, 1).expand(3, SIZE, SIZE)
    wanted = Mixture.gaussian(2 * red - 1, 0.3)
    mixtures = {text: wanted for text in (*prompt.texts("y"), *prompt.texts("src"), prompt.text)}
    return ExactPrior({**mixtures, "": Mixture.gaussian(torch.zeros(3, SIZE, SIZE), 0.5)}, device=device)


@pytest.fixture
def make_recipe() -> Callable[..., Recipe]:
    """Return a function that builds the recipe of a tiny run; its arguments are overrides."""

    def make(*overrides: str) -> Recipe:
        prompt = {"prompt.text": ("the prompt", "a red mug")}
        return load_recipe("quickstart", ["tiny"], [*KEYS, *overrides], prompt)

    return make


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunFolder]:
    """Return a function that makes the folder of a run."""

    def make(recipe: Recipe, name: str = "run") -> RunFolder:
        run = RunFolder(tmp_path / name)
        run.create(recipe, {})
        return run

    return make


@pytest.fixture
def use_exact_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs be judged by the exact prior instead of loading a folder."""
    from systems import build

    monkeypatch.setattr(build, "build_prior", exact_prior)


@pytest.fixture
def make_system(make_recipe: Callable[..., Recipe]) -> Callable[..., Any]:
    """Return a function that builds a system with the exact prior; its arguments are overrides."""

    def make(*overrides: str, device: str = "cpu") -> Any:
        from systems.base import DistillationSystem
        from systems.build import build_renderer

        recipe = make_recipe(*overrides)
        return DistillationSystem(recipe, exact_prior(recipe, device), build_renderer(recipe).to(device))

    return make


@pytest.fixture
def quiet() -> Console:
    """A console that is no terminal; `quiet.file.getvalue()` is what was printed."""
    return Console(file=io.StringIO(), width=200)


@pytest.fixture(scope="session")
def tiny_prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder of tiny random networks for 32-pixel images."""
    source = Path(__file__).parents[1] / "sds3d" / "priors" / "conftest.py"
    spec = importlib.util.spec_from_file_location("prior_folders", source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Path(module.make_folder(tmp_path_factory.mktemp("prior") / "tiny"))
