"""Zero123: the relative pose in closed form, both conditions as the public pipeline makes them, the null text."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sds3d.cameras import orbit, turntable
from sds3d.config import PriorConfig
from sds3d.errors import AssetError, ConfigError, ShapeError
from sds3d.guidance.guide import Guidance
from sds3d.guidance.methods import METHODS
from sds3d.priors.base import NULL_TEXT, Query
from sds3d.priors.open import open_prior
from sds3d.priors.zero123 import CLIP_MEAN, CLIP_STD, ReferenceView, Zero123Prior, clip_pixels, relative_pose
from sds3d.prompts import Prompt

WIDTH = 16
PROMPT = Prompt(text="the object", view_dependent=False)


def picture(seed: int = 0, side: int = 32) -> Tensor:
    return torch.rand(1, side, side, 3, generator=torch.Generator().manual_seed(seed))


def cameras(*azimuths: float, elevation: float = 20.0, distance: float = 2.5) -> Any:
    azimuth = torch.tensor(azimuths)
    return orbit(azimuth, torch.full_like(azimuth, elevation), torch.full_like(azimuth, distance), 45.0, 32, 32)


@pytest.fixture(scope="module")
def write_folder(kl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that writes a folder in the layout of the community pipeline."""
    from diffusers import UNet2DConditionModel
    from safetensors.torch import save_file
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    def write(part: str = "cc_projection", layer: str = "projection", name: str = "zero123", channels: int = 8) -> Path:
        torch.manual_seed(0)  # diffusers initialises from the global generator only
        folder = tmp_path_factory.mktemp("views") / name
        for copied in ("vae", "scheduler"):
            shutil.copytree(kl_folder / copied, folder / copied)
        vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = CLIPVisionConfig(**vision, image_size=16, patch_size=4, projection_dim=WIDTH)
        CLIPVisionModelWithProjection(config).save_pretrained(folder / "image_encoder")
        UNet2DConditionModel(
            sample_size=8,
            in_channels=channels,
            block_out_channels=(32, 64),
            layers_per_block=1,
            norm_num_groups=16,
            attention_head_dim=4,
            cross_attention_dim=WIDTH,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        ).save_pretrained(folder / "unet")
        linear = nn.Linear(WIDTH + 4, WIDTH)
        (folder / part).mkdir()
        weights = {f"{layer}.{kind}": getattr(linear, kind).detach() for kind in ("weight", "bias")}
        save_file(weights, folder / part / "diffusion_pytorch_model.safetensors")
        index = {
            "_class_name": "Zero1to3StableDiffusionPipeline",
            "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
            part: ["pipeline_zero1to3", "CCProjection"],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        }
        (folder / "model_index.json").write_text(json.dumps(index))
        (folder / "sds3d.json").write_text(json.dumps({"image_size": 32}))
        return folder

    return write


@pytest.fixture(scope="module")
def folder(write_folder: Callable[..., Path]) -> Path:
    return write_folder()


@pytest.fixture(scope="module")
def prior(folder: Path) -> Zero123Prior:
    return Zero123Prior.from_folder(folder, ReferenceView(rgb=picture()))


def query(prior: Zero123Prior, text: str = "the object", views: Any = None) -> Query:
    views = cameras(0.0, 90.0, 200.0) if views is None else views
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([20, 500, 980])
    return Query(z_t=noise, t=t, text=prior.text([text] * 3), camera=prior.camera_features(views))


def test_relative_pose_in_closed_form() -> None:
    """get_T of the training code: polar and azimuth angles and radius of both cameras, from their positions."""
    reference = ReferenceView(rgb=picture(), azimuth_deg=30.0, elevation_deg=10.0, distance=2.0)
    views = cameras(30.0, 75.0, 350.0, elevation=40.0, distance=2.5)

    def spherical(position: Tensor) -> tuple[float, float, float]:
        x, y, z = position.double().tolist()
        return math.atan2(math.hypot(x, y), z), math.atan2(y, x), math.sqrt(x * x + y * y + z * z)

    theirs = cameras(30.0, elevation=10.0, distance=2.0).cam_to_world[0, :3, 3]
    found = relative_pose(views, reference, "zero123")
    for row, matrix in zip(found, views.cam_to_world, strict=True):
        here, there = spherical(matrix[:3, 3]), spherical(theirs)
        turn = here[1] - there[1]
        expected = [here[0] - there[0], math.sin(turn), math.cos(turn), here[2] - there[2]]
        torch.testing.assert_close(row, torch.tensor(expected), atol=1e-5, rtol=1e-5)
    assert found[0, 0].item() == pytest.approx(math.radians(-30.0)), "looking from higher up is a smaller polar angle"
    stable = relative_pose(views, reference, "stable-zero123")
    assert torch.equal(stable[:, :3], found[:, :3])
    torch.testing.assert_close(stable[:, 3], torch.full((3,), math.radians(80.0)))


def test_the_reference_view_itself_is_no_turn_and_an_unknown_distance_is_the_same() -> None:
    pose = relative_pose(
        cameras(40.0, elevation=7.0), ReferenceView(rgb=picture(), azimuth_deg=40.0, elevation_deg=7.0), "zero123"
    )
    torch.testing.assert_close(pose, torch.tensor([[0.0, 0.0, 1.0, 0.0]]))


def test_predict_is_the_arithmetic_of_the_public_pipeline(prior: Zero123Prior, folder: Path) -> None:
    """Written out from diffusers' community pipeline with the networks as their own libraries load them."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors.torch import load_file
    from transformers import CLIPVisionModelWithProjection

    asked = query(prior)
    image = picture().permute(0, 3, 1, 2) * 2 - 1
    vision = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder").eval()
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    linear = load_file(folder / "cc_projection" / "diffusion_pytorch_model.safetensors")
    resized = torch.nn.functional.interpolate(image, (16, 16), mode="bicubic", align_corners=True)
    normal = ((resized + 1) / 2 - torch.tensor(CLIP_MEAN).view(1, 3, 1, 1)) / torch.tensor(CLIP_STD).view(1, 3, 1, 1)
    turn = torch.deg2rad(torch.tensor([0.0, 90.0, 200.0]))
    pose = torch.stack([torch.full((3,), math.radians(-20.0)), turn.sin(), turn.cos(), torch.zeros(3)], dim=1)
    with torch.no_grad():
        embedding = vision(normal).image_embeds[:, None].expand(3, 1, -1)
        joined = torch.cat([embedding, pose[:, None]], dim=-1)
        context = joined @ linear["projection.weight"].T + linear["projection.bias"]
        beside = vae.encode(image).latent_dist.mode().expand(3, -1, -1, -1)
        conditional, null = (
            unet(torch.cat([asked.z_t, factor * beside], dim=1), asked.t, encoder_hidden_states=factor * context).sample
            for factor in (1.0, 0.0)
        )
    found = prior.predict([asked, query(prior, "")])
    torch.testing.assert_close(found[0], conditional, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1], null, atol=1e-5, rtol=1e-5)
    assert found[0].dtype == torch.float32 and not found[0].requires_grad
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_every_text_is_the_picture_and_the_empty_one_is_nothing(prior: Zero123Prior) -> None:
    texts = prior.text(["a mug", "something else", "", NULL_TEXT, "  "])
    assert texts.shape == (5, 1, WIDTH) and torch.equal(texts[0], texts[1]) and texts[0].abs().max() > 0
    assert texts[2:].abs().max() == 0


def test_the_pose_matters_where_the_picture_is_known_only(prior: Zero123Prior) -> None:
    turned = cameras(180.0, 270.0, 20.0)
    seen, other = prior.predict([query(prior), query(prior, views=turned)])
    assert (seen - other).abs().amax(dim=(1, 2, 3)).min() > 1e-4
    null, null_turned = prior.predict([query(prior, ""), query(prior, "", turned)])
    assert torch.equal(null, null_turned)


def test_another_reference_changes_the_answer(folder: Path) -> None:
    prior = Zero123Prior.from_folder(folder, ReferenceView(rgb=picture()))
    before = prior.predict([query(prior)])[0]
    prior.show(ReferenceView(rgb=picture(seed=5)))
    assert (prior.predict([query(prior)])[0] - before).abs().max() > 1e-4
    with pytest.raises(ShapeError, match=r"the reference picture has shape \[2, 8, 8, 3\], but \[1, H, W, 3\]"):
        prior.show(ReferenceView(rgb=torch.rand(2, 8, 8, 3)))


def test_a_query_needs_its_pose(prior: Zero123Prior) -> None:
    asked = query(prior)
    for camera in (None, torch.zeros(3, 16)):
        with pytest.raises(ShapeError, match=r"camera has shape .*\[B, 4\] \(a pose relative to the reference"):
            prior.predict([Query(z_t=asked.z_t, t=asked.t, text=asked.text, camera=camera)])


@pytest.mark.parametrize(
    ("name", "kind"), [("zero123-xl", "zero123"), ("models--x--stable-zero123-diffusers", "stable-zero123")]
)
def test_both_layouts_load_and_the_path_says_what_the_pose_means(
    name: str, kind: str, write_folder: Callable[..., Path], prior: Zero123Prior
) -> None:
    other = Zero123Prior.from_folder(write_folder("clip_camera_projection", "proj", name), ReferenceView(rgb=picture()))
    assert other.kind == kind
    if kind == "zero123":
        assert torch.equal(other.predict([query(other)])[0], prior.predict([query(prior)])[0])


def test_recipes_find_the_family_by_the_folder_and_bring_the_picture(folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGBA", (32, 16), (255, 0, 0, 255)).save(tmp_path / "red.png")
    opened = open_prior(PriorConfig(path=str(folder), image=str(tmp_path / "red.png"), image_elevation_deg=10.0))
    assert isinstance(opened, Zero123Prior) and opened.reference.elevation_deg == 10.0
    assert opened.reference.rgb.shape == (1, 32, 32, 3)
    assert opened.reference.rgb[0, 0, 0].tolist() == [1.0, 1.0, 1.0], "the ground is white"
    with pytest.raises(ConfigError, match=r"other views of a picture, but prior\.image is empty"):
        open_prior(folder)


def test_latents_of_renders_are_scaled_and_those_of_the_reference_are_not(prior: Zero123Prior) -> None:
    rgb = picture(seed=3).requires_grad_()
    z0 = prior.encode(rgb)
    torch.testing.assert_close(z0, 0.7 * (prior.codec.mean(rgb) - 0.1))
    (gradient,) = torch.autograd.grad(z0.sum(), rgb)
    assert gradient.abs().max() > 0 and prior.decode(z0).shape == rgb.shape


def test_clip_pixels_of_grey_are_grey_in_clips_units() -> None:
    found = clip_pixels(torch.zeros(1, 3, 32, 32), 16)
    expected = (0.5 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    torch.testing.assert_close(found, expected.view(1, 3, 1, 1).expand(1, 3, 16, 16))


def test_clip_colours_are_those_of_the_library() -> None:
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    assert list(CLIP_MEAN) == list(OPENAI_CLIP_MEAN) and list(CLIP_STD) == list(OPENAI_CLIP_STD)


def test_bfloat16_networks_answer_in_float32(folder: Path, prior: Zero123Prior) -> None:
    low = Zero123Prior.from_folder(folder, ReferenceView(rgb=picture()), dtype=torch.bfloat16)
    found, full = low.predict([query(low)])[0], prior.predict([query(prior)])[0]
    assert found.dtype == torch.float32 and (found - full).norm() / full.norm() < 0.05


def test_a_guidance_step_makes_a_finite_gradient(prior: Zero123Prior) -> None:
    guide = Guidance(prior, METHODS["sds"].config.model_validate({"guidance_scale": 5}), 10)
    rgb = picture(seed=7).expand(2, -1, -1, -1).clone().requires_grad_()
    loss, _ = guide(rgb, PROMPT, turntable(2, 32), 0, torch.Generator().manual_seed(2))
    loss.backward()
    assert rgb.grad is not None and rgb.grad.isfinite().all() and rgb.grad.abs().max() > 0


def test_a_guidance_step_never_waits_for_the_device(folder: Path) -> None:
    prior = Zero123Prior.from_folder(folder, ReferenceView(rgb=picture()), device="meta")
    rgb = torch.rand(2, 40, 40, 3, device="meta", requires_grad=True)
    loss, _ = Guidance(prior, METHODS["sds"].config(), 10)(
        rgb, PROMPT, turntable(2, 32).to("meta"), 0, torch.Generator()
    )
    loss.backward()
    assert rgb.grad is not None and rgb.grad.shape == rgb.shape


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 4}, "UNet with 4 input channels, but this kind of prior needs 8"),
        ({"part": "projection"}, "no image encoder with a pose projection"),
        ({"layer": "linear"}, r"weights \['linear.bias', 'linear.weight'\].*'projection.weight' \[16, 20\]"),
    ],
)
def test_foreign_folders_are_refused(settings: dict[str, Any], message: str, write_folder: Callable[..., Path]) -> None:
    with pytest.raises(AssetError, match=message):
        Zero123Prior.from_folder(write_folder(**settings), ReferenceView(rgb=picture()))


def test_a_stable_diffusion_folder_is_refused(kl_folder: Path) -> None:
    with pytest.raises(AssetError, match="no image encoder"):
        Zero123Prior.from_folder(kl_folder, ReferenceView(rgb=picture()))
