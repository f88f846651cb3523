"""Frames as channels: the order is exact, the network's answer is that of diffusers called by hand, other F are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sds3d.cameras import turntable
from sds3d.errors import AssetError, ConfigError
from sds3d.priors.base import Query
from sds3d.priors.camera_condition import encode_cameras
from sds3d.priors.open import open_prior
from sds3d.priors.parametrisation import output_to_epsilon
from sds3d.priors.video.open import open_video_prior
from sds3d.priors.video.settings import VideoSettings
from sds3d.priors.video.stacked import FrameBalance, StackedFramesPrior, over_time, stacked, unstacked

Folder = Callable[[str], Path]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_stacking_is_all_channels_of_a_frame_then_of_the_next() -> None:
    clips, channels, frames = 2, 4, 3
    z = draw(clips, channels, frames, 5, 6)
    pictures = stacked(z)
    assert pictures.shape == (clips, frames * channels, 5, 6)
    for b in range(clips):
        for f in range(frames):
            for c in range(channels):
                assert torch.equal(pictures[b, f * channels + c], z[b, c, f])
    assert torch.equal(unstacked(pictures, frames), z)


@torch.no_grad()
def test_it_answers_what_diffusers_answers_by_hand(video_folder: Folder) -> None:
    """v to epsilon by the closed form; the camera is the class embedding, a hidden one is zero."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = video_folder("stacked")
    prior = open_prior(str(folder))
    assert isinstance(prior, StackedFramesPrior)
    z, t = draw(2, 4, 3, 8, 8), torch.tensor([200, 900])
    cameras = turntable(2, 16)
    features = prior.camera_features(cameras)
    assert prior.has_camera and torch.equal(features, encode_cameras(cameras.cam_to_world, "extrinsics"))
    text = prior.text(["a mug", "a car"])
    seen, hidden = prior.predict([Query(z_t=z, t=t, text=text, camera=features), Query(z_t=z, t=t, text=text)])

    unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    tokens = CLIPTokenizer.from_pretrained(folder / "tokenizer")(
        ["a mug", "a car"], padding="max_length", truncation=True, return_tensors="pt"
    )
    words = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()(tokens.input_ids).last_hidden_state
    columns = torch.stack([z[:, c, f] for f in range(3) for c in range(4)], dim=1)
    bar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, dim=0)[t].view(2, 1, 1, 1, 1)
    for found, camera in ((seen, features), (hidden, torch.zeros_like(features))):
        v = unet(columns, t, encoder_hidden_states=words, class_labels=camera).sample
        v = torch.stack([torch.stack([v[:, f * 4 + c] for f in range(3)], dim=1) for c in range(4)], dim=1)
        torch.testing.assert_close(found, bar.sqrt() * v + (1 - bar).sqrt() * z, atol=2e-5, rtol=2e-5)
        by_table = output_to_epsilon(v, z, bar.sqrt(), (1 - bar).sqrt(), "v_prediction")
        torch.testing.assert_close(found, by_table, atol=2e-5, rtol=2e-5)
    assert (seen - hidden).abs().max() > 1e-5


def test_it_takes_exactly_its_frames(video_folder: Folder) -> None:
    prior = open_video_prior(video_folder("stacked"))
    assert prior.frames == prior.native_frames() == 3 and str(prior.frame_rule) == "exactly 3 frames"
    for frames in (2, 4, 6):
        with pytest.raises(ConfigError, match=rf"has {frames} frames, .*takes exactly 3 frames\. Set frames to 3"):
            prior.check_clip(torch.zeros(1, frames, 16, 16, 3))
        with pytest.raises(ConfigError, match=r"exactly 3 frames"):
            open_video_prior(video_folder("stacked"), settings=VideoSettings(frames=frames))


@pytest.mark.parametrize("said", [4, None])
def test_a_folder_that_says_other_frames_is_refused(said: int | None, video_folder: Folder, tmp_path: Path) -> None:
    shutil.copytree(video_folder("stacked"), tmp_path / "bad")
    (tmp_path / "bad" / "sds3d.json").write_text(json.dumps({"frames": said} if said else {}))
    with pytest.raises(AssetError, match=r"12 channels in and 12 out.* frames of 4 latent channels"):
        StackedFramesPrior.from_folder(tmp_path / "bad")


SCALES = (2.5, 0.7, 0.2)
ALPHA, SIGMA = (torch.tensor(rows, dtype=torch.float64).view(2, 1, 1, 1, 1) for rows in ((0.6, 0.96), (0.8, 0.28)))


def balance64() -> FrameBalance:
    balance = FrameBalance(torch.tensor(SCALES, dtype=torch.float64))
    balance.basis = over_time(3)
    balance.variance = torch.tensor(SCALES, dtype=torch.float64).square().view(1, 1, -1, 1, 1)
    return balance


@pytest.mark.parametrize("frames", [2, 3, 8])
def test_the_transform_over_time_is_the_orthonormal_cosine_transform(frames: int) -> None:
    from scipy.fft import dct

    basis = over_time(frames)
    eye = torch.eye(frames).double()
    assert torch.allclose(basis, torch.from_numpy(dct(eye.numpy(), norm="ortho", axis=0)), atol=1e-12)
    assert torch.allclose(basis @ basis.T, eye, atol=1e-12)


def test_a_silent_network_gives_the_exact_answer_for_gaussian_clips() -> None:
    """With F = 0 the velocity is E[v | z_t] of clips N(0, C), C = basis^T diag(scales^2) basis, solved frame by frame."""
    balance, z_t = balance64(), draw(2, 4, 3, 2, 2).double()
    covariance = balance.basis.T @ torch.diag(balance.variance.flatten()) @ balance.basis
    found = balance.velocity(torch.zeros(2, 12, 2, 2, dtype=torch.float64), z_t, ALPHA, SIGMA)
    for b in range(2):
        alpha, sigma = float(ALPHA[b]), float(SIGMA[b])
        mixed = alpha**2 * covariance + sigma**2 * torch.eye(3, dtype=torch.float64)
        epsilon = sigma * torch.einsum("fg,cghw->cfhw", torch.linalg.inv(mixed), z_t[b])
        torch.testing.assert_close(found[b], (epsilon - sigma * z_t[b]) / alpha, atol=1e-12, rtol=1e-12)


def test_what_the_network_sees_and_is_asked_for_has_variance_one() -> None:
    balance, count = balance64(), 6000
    rows = draw(count, 1, 3, 2, 2, seed=1).double() * balance.variance.sqrt()
    z0 = torch.einsum("kf,bckhw->bcfhw", balance.basis, rows)
    noise = draw(count, 1, 3, 2, 2, seed=2).double()
    for alpha, sigma in zip(ALPHA, SIGMA, strict=True):
        z_t, v = alpha * z0 + sigma * noise, alpha * noise - sigma * z0
        target = balance.target(v, z_t, alpha, sigma)
        for shown in (balance.inputs(z_t, alpha, sigma), target):
            assert (shown.square().mean(dim=(0, 2, 3)) - 1).abs().max() < 0.05
        torch.testing.assert_close(balance.velocity(target, z_t, alpha, sigma), v, atol=1e-10, rtol=1e-10)


def test_with_scales_of_one_the_answer_is_the_velocity() -> None:
    balance, z_t, answer = FrameBalance(torch.ones(3)), draw(2, 4, 3, 2, 2), draw(2, 12, 2, 2, seed=3)
    alpha, sigma = ALPHA.float(), SIGMA.float()
    assert torch.allclose(balance.inputs(z_t, alpha, sigma), stacked(balance.rows(z_t)), atol=1e-6)
    found = balance.rows(balance.velocity(answer, z_t, alpha, sigma))
    assert torch.allclose(found, unstacked(answer, 3), atol=1e-6)


def with_scales(folder: Path, out: Path, scales: list[float], **scheduler: str) -> Path:
    shutil.copytree(folder, out)
    (out / "sds3d.json").write_text(json.dumps({"frames": 3, "frame_scales": scales}))
    file = out / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | scheduler))
    return out


@torch.no_grad()
def test_a_folder_with_scales_is_balanced(video_folder: Folder, tmp_path: Path) -> None:
    prior = open_video_prior(with_scales(video_folder("stacked"), tmp_path / "balanced", list(SCALES)))
    assert isinstance(prior, StackedFramesPrior)
    z_t, t, text = draw(2, 4, 3, 8, 8), torch.tensor([200, 900]), prior.text(["a mug", "a car"])
    (found,) = prior.predict([Query(z_t=z_t, t=t, text=text)])
    alpha, sigma = prior.alpha_sigma(t)
    balance = FrameBalance(torch.tensor(SCALES))
    answer = prior.network(
        balance.inputs(z_t, alpha, sigma), t, encoder_hidden_states=text, class_labels=torch.zeros(2, 16)
    ).sample
    wanted = alpha * balance.velocity(answer, z_t, alpha, sigma) + sigma * z_t
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("scales", "scheduler"),
    [([1.0, 1.0], {}), ([1.0, 0.0, 1.0], {}), ([1.0, 1.0, 1.0], {"prediction_type": "epsilon"})],
)
def test_scales_that_do_not_fit_are_refused(scales, scheduler, video_folder: Folder, tmp_path: Path) -> None:
    folder = with_scales(video_folder("stacked"), tmp_path / "bad", scales, **scheduler)
    with pytest.raises(AssetError, match=r"frame_scales .* 3 numbers above 0 and v_prediction are needed"):
        open_video_prior(folder)
