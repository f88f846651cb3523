"""Names, folders and files become priors of the right family; what is wrong is one sentence, before anything loads."""

from __future__ import annotations

import importlib
import inspect
import json
import struct
import time
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch

from sds3d.config import PriorConfig, load_recipe
from sds3d.errors import AssetError, ConfigError, Sds3dError
from sds3d.guidance.requirements import Abilities, check_recipe
from sds3d.priors.latent_diffusion import LatentDiffusionPrior
from sds3d.priors.open import LOADERS, _arguments, open_prior, remember_texts
from sds3d.priors.source import NETWORKS, PIPELINES, SOURCE_FILE, check_prior, locate
from sds3d.prompts import Prompt
from sds3d.schedule import Schedule

COMMIT = "a" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put(cache: Path, hub: str, folder: Path, revision: str = "main") -> Path:
    """Let the cache hold `folder` as a model of the hub, the way downloads leave it."""
    repository = cache / f"models--{hub.replace('/', '--')}"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "snapshots" / COMMIT).symlink_to(folder)
    reference = repository / "refs" / revision
    reference.parent.mkdir(parents=True)
    reference.write_text(COMMIT)
    return repository / "snapshots" / COMMIT


def index(folder: Path, name: str) -> Path:
    """Write an index that names the pipeline class."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": name}))
    return folder


def single_file(file: Path, *names: str) -> Path:
    """Write a safetensors file with empty tensors of these names."""
    header = json.dumps({name: {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]} for name in names}).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    return file


def refusal(model: PriorConfig | str | Path) -> str:
    """Return what is said of a model that cannot be opened, having checked that it is said at once."""
    started = time.process_time()
    with pytest.raises(Sds3dError) as caught:
        check_prior(model if isinstance(model, PriorConfig) else PriorConfig(path=str(model)))
    assert time.process_time() - started < 1 and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_catalog_name_opens_what_the_cache_holds(cache: Path, tiny_folder: Path) -> None:
    put(cache, "stable-diffusion-v1-5/stable-diffusion-v1-5", tiny_folder)
    prior = open_prior("sd15", dtype=torch.bfloat16)
    assert isinstance(prior, LatentDiffusionPrior) and prior.dtype == torch.bfloat16 and prior.has_camera
    said = locate("runwayml/stable-diffusion-v1-5").record()  # the old id means the same model
    assert said["hub"] == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert said["revision"] == COMMIT and said["licence"] == "CreativeML-OpenRAIL-M"


def test_a_copy_from_before_a_model_was_withdrawn_is_found(cache: Path, tiny_folder: Path) -> None:
    put(cache, "stabilityai/stable-diffusion-2-1-base", tiny_folder)
    assert locate("sd21-base").revision == COMMIT


def test_a_pinned_revision_is_the_one_that_is_used(cache: Path, tiny_folder: Path) -> None:
    put(cache, "cerspense/zeroscope_v2_576w", tiny_folder)  # the main branch, which has no safetensors
    assert "fetch zeroscope" in refusal("zeroscope")
    put(cache.with_name("other"), "cerspense/zeroscope_v2_576w", tiny_folder, "refs/pr/46")


def test_folders_name_their_source(tmp_path: Path, tiny_folder: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for part in tiny_folder.iterdir():
        (folder / part.name).symlink_to(part)
    (folder / SOURCE_FILE).write_text(json.dumps({"hub": "a/b", "revision": "r1", "licence": "MIT"}))
    found = locate(folder)
    assert (found.revision, found.licence, found.family) == ("r1", "MIT", "latent_diffusion")


@pytest.mark.parametrize("model", ["toybox", "sds3d/../assets/priors/toybox"])
def test_the_bundled_prior_by_name_and_by_path(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    assert locate(model).licence == "Apache-2.0"


def test_a_missing_model_says_how_to_get_it_and_what_stands_in(cache: Path, tiny_folder: Path) -> None:
    said = refusal("sd21-base")
    assert (
        "not on this machine. Run 'python launch.py fetch sd21-base' once, or fetch a stand-in (sd15 or sd14)" in said
    )
    put(cache, "CompVis/stable-diffusion-v1-4", tiny_folder)
    assert "use what is here instead (prior.path=sd14)" in refusal("sd21-base")
    assert "accept its licence at https://huggingface.co/black-forest-labs/FLUX.1-dev first" in refusal("flux-dev")
    assert "'no/such' does not exist. Give prior.path" in refusal("no/such")
    assert "did you mean 'sd21-base'?" in refusal("models/stable-diffusion-2-1-base")


def test_an_incomplete_download_says_how_to_go_on(cache: Path, tmp_path: Path) -> None:
    folder = index(tmp_path / "half", "StableDiffusionPipeline")
    (folder / "vae").mkdir()
    single_file(folder / "vae" / "diffusion_pytorch_model.safetensors", "w")
    put(cache, "stable-diffusion-v1-5/stable-diffusion-v1-5", folder)
    said = refusal("sd15")
    assert "'sd15' on this machine is not complete: " in said and "Run 'python launch.py fetch sd15'" in said


def test_a_truncated_weight_file_is_found(broken_copy: Any, tiny_folder: Path) -> None:
    name = "unet/diffusion_pytorch_model.safetensors"
    folder = broken_copy(name, (tiny_folder / name).read_bytes()[:-1000])
    assert "not a whole safetensors file: it has" in refusal(folder)


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "weights.bin", "model.zip"])
def test_pickles_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04 and so on")
    said = refusal(tmp_path / name)
    assert "is a pickle file" in said and "safetensors" in said
    assert f"There is '{name}', but pickled" in refusal(tmp_path) or name == "model.zip"


def test_wrong_folders_say_what_would_be_right(tmp_path: Path, tiny_folder: Path) -> None:
    assert "holds no model: it lacks the file 'model_index.json'" in refusal(tmp_path)
    index(tmp_path / "inner", "FluxPipeline")
    assert f"But '{tmp_path / 'inner'}' does: give that folder" in refusal(tmp_path)
    assert "a pipeline of class KandinskyPipeline" in refusal(index(tmp_path / "other", "KandinskyPipeline"))
    (tmp_path / "language").mkdir()
    (tmp_path / "language" / "config.json").write_text('{"_class_name": "LlamaModel"}')
    assert "a network of class LlamaModel" in refusal(tmp_path / "language")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model_index.json").write_text("{")
    assert "is not valid JSON" in refusal(tmp_path / "broken")
    (tmp_path / "file").mkdir()
    single_file(tmp_path / "file" / "only.safetensors", "w")
    assert "give its path" in refusal(tmp_path / "file")


def test_single_files_are_told_apart_by_their_tensors(tmp_path: Path) -> None:
    assert "is not a whole Stable Diffusion" in refusal(single_file(tmp_path / "lora.safetensors", "lora_unet_down"))
    for name, family, base in (
        ("model.diffusion_model.camera_embed.0.weight", "multi_view", "sd21-base"),
        ("conditioner.embedders.1.model.ln_final.weight", "latent_diffusion", "sdxl"),
        ("cond_stage_model.model.ln_final.weight", "latent_diffusion", "sd21-base"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.weight", "latent_diffusion", "sd15"),
    ):
        found = locate(single_file(tmp_path / "model.safetensors", name))
        assert (found.family, found.base) == (family, base)


def test_parts_that_do_not_go_together(tmp_path: Path, tiny_folder: Path) -> None:
    control = tmp_path / "control"
    control.mkdir()
    (control / "config.json").write_text('{"_class_name": "ControlNetModel"}')
    assert "is a controlnet, which is no prior by itself. Give it as prior.controlnets" in refusal(control)
    config = PriorConfig(path=str(tiny_folder), controlnets=(str(tiny_folder),))
    assert "which is a model of family 'latent_diffusion'. Give ControlNets" in refusal(config)
    assert "prior.kind=auto" in refusal(PriorConfig(kind="flow", path=str(tiny_folder)))
    picture = PriorConfig(path=str(tiny_folder), image=str(tmp_path / "no.png"))
    assert "no.png' does not exist. Give an existing file" in refusal(picture)
    assert "cannot take the place of the autoencoder" in refusal(PriorConfig(path=str(tiny_folder), vae=str(control)))


def test_controlnets_are_found_and_recorded(tmp_path: Path, kl_folder: Path) -> None:
    control = tmp_path / "control"
    control.mkdir()
    (control / "config.json").write_text('{"_class_name": "ControlNetModel"}')
    config = PriorConfig(path=str(kl_folder), controlnets=(str(control),), control_scales=(0.5,))
    source = check_prior(config)
    assert [other.path for other in source.others] == [control]
    assert _arguments(source, config)["control_scales"] == (Schedule.constant(0.5),)


def test_another_autoencoder_joins_without_copies(
    tmp_path: Path, kl_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDS3D_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "base"
    folder.mkdir()
    for part in kl_folder.iterdir():
        (folder / part.name).symlink_to(part)
    index(folder, "StableDiffusionPipeline")
    config = PriorConfig(path=str(folder), vae=str(kl_folder / "vae"))
    source = check_prior(config)
    assert source.path.is_relative_to(tmp_path / "cache") and (source.path / "vae").resolve() == kl_folder / "vae"
    assert check_prior(config).path == source.path
    assert sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*") if not file.is_symlink()) < 20_000


@pytest.mark.parametrize("family", sorted(LOADERS))
def test_loaders_exist_and_take_what_the_table_says(family: str) -> None:
    loader = LOADERS[family]
    function: Any = reduce(getattr, loader.function.split("."), importlib.import_module(loader.module))
    known = inspect.signature(function).parameters
    assert {"path", "device", "dtype", *loader.takes, *(("store",) if loader.takes_store else ())} <= known.keys()


def test_every_family_that_is_recognised_can_be_opened() -> None:
    assert "toy_clips" in LOADERS
    assert {*PIPELINES.values(), "motion_adapter"} == set(LOADERS)
    assert set(NETWORKS.values()) == {"controlnet", "motion_adapter", "autoencoder"}


def test_switches_reach_the_loader_and_unknown_ones_are_refused(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PriorConfig(path=str(tiny_folder), vae_slicing=True, channels_last=True, vae_dtype="bfloat16")
    given = _arguments(check_prior(config), config)
    assert given["switches"].vae_slicing and given["switches"].channels_last and given["vae_dtype"] == torch.bfloat16
    assert _arguments(check_prior(PriorConfig(path=str(tiny_folder))), PriorConfig()) == {}
    loader = LOADERS["latent_diffusion"]
    monkeypatch.setitem(
        LOADERS, "latent_diffusion", type(loader)(module=loader.module, function=loader.function, takes=frozenset())
    )
    with pytest.raises(ConfigError, match=r"does not know prior.vae_tiling.*prior.vae_dtype. Leave them out"):
        open_prior(config)


def test_texts_are_remembered_and_encoders_freed(tiny_folder: Path) -> None:
    prior = open_prior(tiny_folder)
    assert isinstance(prior, LatentDiffusionPrior)
    remember_texts(prior, Prompt(text="a mug", view_dependent=False), {"y", "0"})
    assert prior.text_encoders.networks == []
    assert prior.text(["a mug", ""]).shape[0] == 2 and prior.text_encoders.networks == []


def test_the_camera_can_be_hidden(tiny_folder: Path) -> None:
    assert not open_prior(PriorConfig(path=str(tiny_folder), camera=False)).has_camera


def test_two_priors_are_mixed_in_one_recipe(cache: Path) -> None:
    recipe = load_recipe("mvdream-sd", ["tiny"], [], {"prompt.text": ("the prompt", "a red mug")})
    sources = check_recipe(recipe)
    assert [source.name for source in sources] == ["toybox", "toybox"] and len(recipe.also) == 1
    real = load_recipe("mvdream-sd", [], [], {"prompt.text": ("the prompt", "a red mug")})
    assert (real.prior.path, real.also[0].prior.path) == ("mvdream", "sd21-base")
    with pytest.raises(AssetError, match=r"'mvdream-sd' needs MVDream .*, but the model 'mvdream'.*fetch mvdream"):
        check_recipe(real)
    changed = load_recipe("mvdream-sd", [], ["also.weight=0.5", "also.prior.dtype=bfloat16"])
    assert changed.also[0].weight.at(0, 10) == 0.5 and changed.also[0].prior.path == "sd21-base"
    assert load_recipe("quickstart", ["tiny"]).also == ()


def test_abilities_follow_the_family(tmp_path: Path, tiny_folder: Path) -> None:
    source = locate(tiny_folder)
    assert Abilities.of_source(source).camera and not Abilities.of_source(source, uses_camera=False).camera


def test_paths_become_absolute_and_names_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = PriorConfig(
        path="sd15", controlnets=("controlnet-depth", "my/net"), image="cat.png", vae="sdxl-vae"
    ).absolute()
    assert (config.path, config.vae, config.controlnets[0]) == ("sd15", "sdxl-vae", "controlnet-depth")
    assert config.controlnets[1] == str(tmp_path / "my" / "net") and config.image == str(tmp_path / "cat.png")
    assert PriorConfig(path="CompVis/stable-diffusion-v1-4").absolute().path == "CompVis/stable-diffusion-v1-4"
    (tmp_path / "CompVis" / "stable-diffusion-v1-4").mkdir(parents=True)
    assert PriorConfig(path="CompVis/stable-diffusion-v1-4").absolute().path.startswith(str(tmp_path))


def test_strengths_belong_to_controlnets() -> None:
    with pytest.raises(ValueError, match="1 strengths for 0 controlnets"):
        PriorConfig(control_scales=(1.0,))
    with pytest.raises(ValueError, match=r"the value 11 is out of range: allowed is \[0, 10\]"):
        PriorConfig(controlnets=("a",), control_scales=({"clock": "step", "points": [[0, 1], [9, 11]]},))


@pytest.mark.slow
def test_a_motion_adapter_joins_its_base(tmp_path: Path, sd_folder: Path) -> None:
    from diffusers import MotionAdapter

    adapter = MotionAdapter(
        block_out_channels=(32, 64),
        motion_layers_per_block=1,
        motion_mid_block_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=16,
        motion_max_seq_length=8,
    )
    adapter.save_pretrained(tmp_path / "adapter")
    video = {"frames": 4, "height": 16, "width": 16}
    config = PriorConfig(path=str(tmp_path / "adapter"), base=str(sd_folder), video=video)  # type: ignore[arg-type]
    source = check_prior(config)
    assert source.family == "motion_adapter" and source.main == sd_folder
    assert [model.path for model in (source, *source.others)] == [tmp_path / "adapter", sd_folder]
    prior = open_prior(config)
    assert type(prior).__name__ == "AnimateDiffPrior" and prior.encode(torch.rand(1, 4, 16, 16, 3)).shape[:2] == (1, 4)


def test_a_picture_turner_needs_its_picture(tmp_path: Path) -> None:
    from PIL import Image

    from sds3d.priors.open import _reference

    Image.new("RGBA", (8, 4), (255, 0, 0, 0)).save(tmp_path / "cat.png")
    shown = _reference(PriorConfig(image=str(tmp_path / "cat.png"), image_elevation_deg=10, image_azimuth_deg=30))
    assert shown.rgb.shape == (1, 8, 8, 3) and bool((shown.rgb == 1).all())  # transparent is white, sides are padded
    assert (shown.elevation_deg, shown.azimuth_deg) == (10, 30)
    folder = index(tmp_path / "turner", "Zero123Pipeline")
    for part in ("unet", "vae"):
        (folder / part).mkdir()
        (folder / part / "config.json").write_text("{}")
        single_file(folder / part / "diffusion_pytorch_model.safetensors", "w")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    parts = {"unet": ["diffusers", "U"], "vae": ["diffusers", "V"]}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "Zero123Pipeline", **parts}))
    assert "prior.image is empty. Give prior.image=FILE" in refusal(folder)
