"""MVDream: names of the published weights, outputs of the published code, views that attend to one another."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sds3d.cameras import orbit, turntable
from sds3d.config import PriorConfig
from sds3d.errors import AssetError, ShapeError
from sds3d.guidance.guide import Guidance
from sds3d.guidance.methods import METHODS
from sds3d.priors.base import Query
from sds3d.priors.mvdream.keys import PREFIXES, diffusers_name, to_diffusers
from sds3d.priors.mvdream.prior import MVDreamPrior
from sds3d.priors.mvdream.unet import PUBLISHED, build_unet, diffusers_config, published_config
from sds3d.priors.open import open_prior
from sds3d.prompts import Prompt

DATA = Path(__file__).parents[2] / "data"
PROMPT = Prompt(text="a red mug", negative="a car", view_dependent=False)


def published_shapes() -> dict[int, dict[str, tuple[int, ...]]]:
    """Return {width of the text: {name: shape}} of the two published models."""
    shapes: dict[int, dict[str, tuple[int, ...]]] = {1024: {}, 768: {}}
    for line in (DATA / "mvdream_weights.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, first, *second = line.split()
            for width, text in ((1024, first), (768, second[0] if second else first)):
                shapes[width][name] = tuple(int(size) for size in text.split("x"))
    return shapes


def wave(name: str, shape: tuple[int, ...]) -> Tensor:
    """Return numbers that follow from name and shape alone, the same on every machine; norms get a scale near 1."""
    count = torch.Size(shape).numel()
    phase = zlib.crc32(name.encode()) % 1000
    numbers = 0.15 * torch.sin(0.7 * torch.arange(count, dtype=torch.float64) + phase)
    return (numbers + (1 if len(shape) == 1 and name.endswith("weight") else 0)).float().reshape(shape)


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """What the published code answers for tiny models: {model: {config, weights, outputs}}."""
    found: dict[str, Any] = json.loads((DATA / "mvdream_outputs.json").read_text())["models"]
    return found


def weights_of(model: dict[str, Any], prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: wave(name, tuple(shape)) for name, shape in model["weights"].items()}


@pytest.fixture(scope="module")
def write_folder(
    kl_folder: Path, models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Return a function that writes a pipeline folder whose UNet has a published layout."""
    from safetensors.torch import save_file

    def write(prefix: str = "", class_name: str = "MultiViewUNetModel", **changes: Any) -> Path:
        folder = tmp_path_factory.mktemp("mvdream") / "folder"
        shutil.copytree(kl_folder, folder, ignore=shutil.ignore_patterns("unet"))
        (folder / "unet").mkdir()
        config = {"_class_name": class_name, **models["sd-v2"]["config"], **changes}
        (folder / "unet" / "config.json").write_text(json.dumps(config))
        save_file(weights_of(models["sd-v2"], prefix), folder / "unet" / "diffusion_pytorch_model.safetensors")
        index = {
            "_class_name": "MVDreamPipeline",
            "image_encoder": [None, None],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["mv_unet", class_name],
            "vae": ["diffusers", "AutoencoderKL"],
        }
        (folder / "model_index.json").write_text(json.dumps(index))
        return folder

    return write


@pytest.fixture(scope="module")
def folder(write_folder: Callable[..., Path]) -> Path:
    return write_folder()


@pytest.fixture(scope="module")
def prior(folder: Path) -> MVDreamPrior:
    return MVDreamPrior.from_folder(folder)


def query(prior: MVDreamPrior, groups: int = 2, camera: bool = True, text: str = "a red mug") -> Query:
    count = groups * 4
    t = torch.tensor([50, 400, 800])[:groups].repeat_interleave(4)
    features = prior.camera_features(turntable(count, 32)) if camera else None
    noise = torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return Query(z_t=noise, t=t, text=prior.text([text] * count), camera=features)


@pytest.mark.parametrize("width", [1024, 768])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_published_names_and_shapes_are_those_of_the_diffusers_network_one_to_one(width: int, prefix: str) -> None:
    from diffusers import UNet2DConditionModel

    shapes = published_shapes()[width]
    with torch.device("meta"):
        network = UNet2DConditionModel(**diffusers_config(PUBLISHED[width]))
    mapped = to_diffusers({prefix + name: shape for name, shape in shapes.items()}, 2)
    assert len(shapes) == len(mapped) == 690
    assert mapped == {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert published_config(shapes) == PUBLISHED[width]


@pytest.mark.parametrize("width", [1024, 768])
def test_names_agree_with_diffusers_own_conversion_of_stable_diffusion(width: int) -> None:
    """The same places as diffusers finds for Stable Diffusion's UNet; only the camera is MVDream's own."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    names = [name for name in published_shapes()[width] if not name.startswith("camera_embed")]
    config = diffusers_config(PUBLISHED[width]) | {"class_embed_type": None, "addition_embed_type": None}
    theirs = convert_ldm_unet_checkpoint({f"model.diffusion_model.{name}": name for name in names}, config)
    assert {diffusers_name(name, 2): name for name in names} == theirs


@pytest.mark.parametrize("case", [("four views", 4, True), ("no camera", 4, False), ("one view", 1, True)])
@pytest.mark.parametrize("name", ["sd-v2", "sd-v1"])
def test_outputs_are_those_of_the_published_code(
    name: str, case: tuple[str, int, bool], models: dict[str, Any]
) -> None:
    title, views, has_camera = case
    unet = build_unet(models[name]["config"], weights_of(models[name], "unet."), views, torch.float32).eval()
    shapes = {"x": (8, 4, 4, 4), "text": (8, 5, 16), "camera": (8, 16)}
    x, text, camera = (7 * wave(part, shape) for part, shape in shapes.items())
    with torch.no_grad():
        found = unet(
            x,
            torch.tensor([20] * 4 + [700] * 4),
            encoder_hidden_states=text,
            class_labels=camera if has_camera else torch.zeros_like(camera),
        ).sample
    expected = torch.tensor(models[name]["outputs"][title]).reshape(8, 4, 4, 4)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("views", [4, 1])
def test_views_of_a_group_see_each_other_and_no_others(views: int, models: dict[str, Any]) -> None:
    unet = build_unet(models["sd-v2"]["config"], weights_of(models["sd-v2"]), views, torch.float32).eval()
    x, text, camera = (
        7 * wave(part, s) for part, s in {"x": (8, 4, 8, 8), "text": (8, 5, 16), "camera": (8, 16)}.items()
    )
    changed = x.clone()
    changed[1] += 1.0
    with torch.no_grad():
        before, after = (
            unet(z, torch.full((8,), 300), encoder_hidden_states=text, class_labels=camera).sample for z in (x, changed)
        )
    moved = (before - after).abs().amax(dim=(1, 2, 3)) > 1e-4
    assert moved.tolist() == ([True] * 4 + [False] * 4 if views == 4 else [False, True] + [False] * 6)


def test_the_camera_changes_the_prediction_and_is_not_heard_where_there_is_none(prior: MVDreamPrior) -> None:
    asked = query(prior)
    assert asked.camera is not None
    turned = asked.camera.clone()
    turned[0] = turned[2]
    queries = [asked, Query(z_t=asked.z_t, t=asked.t, text=asked.text, camera=turned), query(prior, camera=False)]
    seen, other, none = prior.predict(queries)
    moved = (seen - other).abs().amax(dim=(1, 2, 3))
    assert moved[0] > 1e-3 and moved[4:].max() < 1e-5, "another group does not notice"
    assert (seen - none).abs().amax(dim=(1, 2, 3)).min() > 1e-3


def test_predict_is_the_network_in_epsilon_form(prior: MVDreamPrior) -> None:
    asked = query(prior)
    (epsilon,) = prior.predict([asked])
    with torch.no_grad():
        expected = prior.unet(asked.z_t, asked.t, encoder_hidden_states=asked.text, class_labels=asked.camera).sample
    assert torch.equal(epsilon, expected), "the published models predict the noise itself"
    assert epsilon.dtype == torch.float32 and not epsilon.requires_grad
    assert (prior.group_views, prior.has_camera, prior.image_size, prior.num_timesteps) == (4, True, 32, 1000)


def test_one_call_answers_all_queries(prior: MVDreamPrior) -> None:
    asked = [query(prior), query(prior, text=""), query(prior, groups=1, camera=False)]
    apart = [prior.predict([one])[0] for one in asked]
    for one, other in zip(apart, prior.predict(asked), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert (apart[0] - apart[1]).abs().max() > 1e-4, "the text matters"


@pytest.mark.parametrize("count", [1, 3, 6])
def test_a_batch_that_is_no_whole_group_is_refused(prior: MVDreamPrior, count: int) -> None:
    whole = query(prior)
    assert whole.camera is not None
    part = Query(z_t=whole.z_t[:count], t=whole.t[:count], text=whole.text[:count], camera=whole.camera[:count])
    message = rf"z_t has shape \[{count}, 4, 8, 8\].*multiple of 4.*set cameras.views to 4, 8"
    with pytest.raises(ShapeError, match=message):
        prior.predict([whole, part])


def test_camera_features_are_the_matrices_of_the_published_get_camera(prior: MVDreamPrior) -> None:
    """Its azimuth is ours plus 90 degrees: written out from its formula, y up, then turned to z up."""
    azimuths, elevation = torch.tensor([0.0, 40.0, 200.0]), 15.0
    found = prior.camera_features(orbit(azimuths, torch.full((3,), elevation), torch.full((3,), 2.5), 45.0, 32, 32))
    for azimuth, row in zip(azimuths.tolist(), found, strict=True):
        a, e = np.radians(azimuth + 90.0), np.radians(elevation)
        position = np.array([np.cos(e) * np.sin(a), np.sin(e), np.cos(e) * np.cos(a)])
        right = np.cross(-position, [0.0, 1.0, 0.0])
        right /= np.linalg.norm(right)
        up = np.cross(right, -position)
        matrix = np.eye(4)
        matrix[:3] = np.stack([right, up, position, position], axis=1)
        to_blender = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
        expected = torch.from_numpy((to_blender @ matrix).flatten()).float()
        torch.testing.assert_close(row, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("prefix", "class_name"), [("", "MultiViewUNetModel"), ("unet.", "MultiViewUNetWrapperModel")])
def test_both_folder_layouts_load(
    prefix: str, class_name: str, write_folder: Callable[..., Path], prior: MVDreamPrior
) -> None:
    other = MVDreamPrior.from_folder(write_folder(prefix, class_name))
    assert torch.equal(other.predict([query(other)])[0], prior.predict([query(prior)])[0])


def test_a_folder_that_names_the_class_only_is_known_by_its_shapes(
    write_folder: Callable[..., Path], models: dict[str, Any], prior: MVDreamPrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder("unet.")
    (folder / "unet" / "config.json").write_text(json.dumps({"_class_name": "MultiViewUNetWrapperModel"}))
    monkeypatch.setitem(PUBLISHED, 16, models["sd-v2"]["config"])
    other = MVDreamPrior.from_folder(folder)
    assert torch.equal(other.predict([query(other)])[0], prior.predict([query(prior)])[0])


def test_recipes_find_the_family_by_the_folder(folder: Path, prior: MVDreamPrior) -> None:
    opened = open_prior(folder)
    assert isinstance(opened, MVDreamPrior) and opened.group_views == 4
    assert torch.equal(opened.predict([query(prior)])[0], prior.predict([query(prior)])[0])
    deaf = open_prior(PriorConfig(path=str(folder), camera=False))
    assert deaf.camera_features(turntable(4, 32)) is None


def test_a_checkpoint_loads_over_the_folder_of_its_base_model(
    kl_folder: Path, models: dict[str, Any], tmp_path: Path, prior: MVDreamPrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    tensors = weights_of(models["sd-v2"], "model.diffusion_model.") | {"first_stage_model.a": torch.zeros(1)}
    save_file(tensors, tmp_path / "checkpoint.safetensors")
    monkeypatch.setitem(PUBLISHED, 16, models["sd-v2"]["config"])
    other = MVDreamPrior.from_checkpoint(tmp_path / "checkpoint.safetensors", kl_folder)
    assert torch.equal(other.predict([query(other)])[0], prior.predict([query(prior)])[0])


def test_bfloat16_networks_answer_in_float32(folder: Path, prior: MVDreamPrior) -> None:
    low = MVDreamPrior.from_folder(folder, dtype=torch.bfloat16)
    found, full = low.predict([query(low)])[0], prior.predict([query(prior)])[0]
    assert low.unet.dtype == torch.bfloat16 and found.dtype == torch.float32
    assert (found - full).norm() / full.norm() < 0.05


@pytest.mark.parametrize("name", ["mvdream-recon", "vsd"])
def test_a_guidance_step_makes_a_finite_gradient(name: str, folder: Path) -> None:
    prior, row = MVDreamPrior.from_folder(folder), METHODS[name]
    network = prior.score_network(2, torch.Generator().manual_seed(3)) if row.trains else None
    guide = Guidance(prior, row.config.model_validate({"group": 4}), 10, {"psi": network} if network else None)
    rgb = torch.rand(4, 32, 32, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss, _ = guide(rgb, PROMPT, turntable(4, 32), 0, torch.Generator().manual_seed(2))
    loss.backward()
    assert rgb.grad is not None and rgb.grad.isfinite().all() and rgb.grad.abs().max() > 0


def test_a_guidance_step_never_waits_for_the_device(folder: Path) -> None:
    prior = MVDreamPrior.from_folder(folder, device="meta")
    guide = Guidance(prior, METHODS["mvdream-recon"].config(), 10)
    rgb = torch.rand(4, 40, 40, 3, device="meta", requires_grad=True)
    loss, _ = guide(rgb, PROMPT, turntable(4, 32).to("meta"), 0, torch.Generator())
    loss.backward()
    assert rgb.grad is not None and rgb.grad.shape == rgb.shape


def test_encode_and_decode_are_those_of_the_base_model(prior: MVDreamPrior) -> None:
    rgb = torch.rand(4, 32, 32, 3, generator=torch.Generator().manual_seed(4))
    assert (
        torch.equal(prior.encode(rgb), prior.latent.encode(rgb)) and prior.decode(prior.encode(rgb)).shape == rgb.shape
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_name": "UNet2DConditionModel"}, "network of class UNet2DConditionModel, but MVDream needs"),
        ({"ip_dim": 16}, "ImageDream is not supported"),
        ({"model_channels": 64}, r"MVDream's UNet cannot be loaded.*must belong together"),
        ({"num_heads": None, "num_head_channels": None}, "cannot be used"),
        ({"prefix": "other."}, r"no camera embedding.*Give the weights of MVDream's UNet"),
    ],
)
def test_foreign_folders_are_refused(changes: dict[str, Any], message: str, write_folder: Callable[..., Path]) -> None:
    with pytest.raises(AssetError, match=message):
        MVDreamPrior.from_folder(write_folder(**changes))


def test_foreign_checkpoints_are_refused(kl_folder: Path, tmp_path: Path, models: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    (tmp_path / "model.pt").write_bytes(b"PK")
    with pytest.raises(AssetError, match=r"pickled.*only safetensors are loaded"):
        MVDreamPrior.from_checkpoint(tmp_path / "model.pt", kl_folder)
    with pytest.raises(AssetError, match="does not exist"):
        MVDreamPrior.from_checkpoint(tmp_path / "none.safetensors", kl_folder)
    save_file(weights_of(models["sd-v2"]), tmp_path / "narrow.safetensors")
    with pytest.raises(AssetError, match="texts of width 16, but the published models read 1024 or 768"):
        MVDreamPrior.from_checkpoint(tmp_path / "narrow.safetensors", kl_folder)


def test_an_unknown_weight_is_an_error() -> None:
    for name in ("input_blocks.1.2.q.weight", "image_embed.latents", "output_blocks.0.5.in_layers.0.weight"):
        with pytest.raises(AssetError, match=f"hold '{name}', which the published model does not have"):
            diffusers_name(name, 2)
