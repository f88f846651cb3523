"""The predicted memory follows the formula, grows as it should, and is near what was measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sds3d import doctor, hardware
from sds3d.config import Recipe, load_recipe
from sds3d.errors import AssetError
from sds3d.priors.footprint import PROGRAM_GB, RENDERER_GB, parameters, predict_memory

ROOT = Path(__file__).parents[3]


def recipe(*overrides: str, name: str = "quickstart") -> Recipe:
    return load_recipe(name, [], overrides, {"prompt.text": ("the prompt", "a mug")})


def test_weights_are_counted_from_the_headers() -> None:
    import torch
    from safetensors.torch import load_file

    file = ROOT / "assets" / "priors" / "toybox" / "unet" / "diffusion_pytorch_model.safetensors"
    count = sum(tensor.numel() for tensor in load_file(file).values())
    assert parameters(file) == count
    (part,) = predict_memory(recipe(), on_card=False).parts
    vae = parameters(ROOT / "assets" / "priors" / "toybox" / "vae" / "diffusion_pytorch_model.safetensors")
    assert part.weights == pytest.approx(4 * (count + vae))
    assert torch.float32.itemsize == 4


def test_predictions_and_gradients_grow_with_views_and_branches() -> None:
    one, four = (predict_memory(recipe(f"cameras.views={views}"), on_card=False).parts[0] for views in (1, 4))
    assert four.predictions == 4 * one.predictions and four.autoencoder == 4 * one.autoencoder
    # 64 channels on 16 x 16 latents, 20 tensors of 4 bytes, two branches
    assert one.predictions == 20 * 64 * 16 * 16 * 4 * 2
    # 5 tensors of 32 channels at 64, 32 and 16 pixels
    assert one.autoencoder == 5 * 32 * (64**2 + 32**2 + 16**2) * 4
    assert four.weights == one.weights and four.training == 0


def test_half_precision_halves_and_training_costs() -> None:
    full, half = (
        predict_memory(recipe(f"prior.dtype={kind}"), on_card=False).parts[0] for kind in ("float32", "bfloat16")
    )
    assert full.predictions == 2 * half.predictions and full.autoencoder == half.autoencoder
    vsd = predict_memory(recipe("guidance.method=vsd"), on_card=False).parts[0]
    assert vsd.training > 0


def test_priors_add_their_weights_and_the_largest_step() -> None:
    extra = "also=[{prior: {path: toybox}, guidance: {method: csd}}]"
    two = predict_memory(recipe(extra), on_card=False)
    held = sum(part.weights for part in two.parts)
    step = max(part.peak - part.weights for part in two.parts)
    assert len(two.parts) == 2
    assert two.main_gb == pytest.approx((held + step) / 1e9 + PROGRAM_GB + RENDERER_GB)


def test_models_that_are_not_here_are_judged_by_the_catalog(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    found = predict_memory(recipe("prior.path=sdxl", name="dreamfusion"), on_card=True)
    (part,) = found.parts
    assert part.weights == pytest.approx(2567.5e6 * 2 + 83.7e6 * 4)  # float16 network, float32 autoencoder
    assert part.texts == pytest.approx((123.1e6 + 694.7e6) * 2)
    offloaded = predict_memory(recipe("prior.path=sdxl", "prior.cpu_offload=true", name="dreamfusion"), on_card=True)
    assert offloaded.card_gb < found.card_gb < found.card_gb + found.main_gb < 40
    assert offloaded.main_gb > found.main_gb
    with pytest.raises(AssetError, match="does not exist"):
        predict_memory(recipe("prior.path=no/such"), on_card=True)


@pytest.mark.parametrize(("total", "state"), [(64.0, "ok"), (0.95, "off"), (0.5, "broken")])
def test_the_doctor_refuses_what_cannot_fit(monkeypatch: pytest.MonkeyPatch, total: float, state: str) -> None:
    monkeypatch.setattr(hardware, "memory_gb", lambda: (total, total))
    monkeypatch.setattr(hardware, "cuda_cards", lambda: ([], "none"))
    row = doctor.recipe_checks(recipe())[-1]
    assert row.name == "main memory" and row.state == state
    assert ("--overlay lowmem" in row.fix) == (state != "ok")


def test_a_missing_model_is_a_row_of_the_doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    model, memory = doctor.recipe_checks(recipe(name="dreamfusion"))
    assert model.state == "broken" and "fetch sd21-base" in model.detail and "GB needed" in memory.detail


MEASURE = """
import resource, sys, torch, lightning, numba
from sds3d.config import load_recipe
from sds3d.priors.base import Query
from systems.build import build_prior
views = 48
recipe = load_recipe("quickstart", overrides=["prompt.text=a red mug"])
prior = build_prior(recipe, torch.device("cpu"))
rgb = torch.rand(views, 64, 64, 3, requires_grad=True)
z = prior.encode(rgb)
text = prior.text(["a red mug, front view"]).expand(views, -1, -1)
query = Query(z_t=z.detach(), t=torch.full((views,), 500), text=text)
(z * prior.predict([query, query])[0]).sum().backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
def test_the_prediction_is_within_a_factor_of_two_of_the_bundled_prior_s_peak() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], cwd=ROOT, capture_output=True, text=True, check=True, timeout=200
    )
    measured = float(done.stdout.split()[-1])
    predicted = predict_memory(recipe("cameras.views=48"), on_card=False).main_gb
    assert 0.5 < measured / predicted < 2, (measured, predicted)
