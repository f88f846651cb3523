"""Every family against the diffusers pipeline of the same folder: what the pipeline's network gets and answers (C3)."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from sds3d.errors import AssetError
from sds3d.priors.base import Query
from sds3d.priors.noise_levels import NoiseLevels
from sds3d.priors.parametrisation import output_to_epsilon
from sds3d.priors.video.diffusion import DiffusersVideoPrior
from sds3d.priors.video.first_frame import ClipView
from sds3d.priors.video.open import open_video_prior

TEXT = "a red &amp; round  mug"
PIPELINES = {
    "unet3d": "TextToVideoSDPipeline",
    "animatediff": "AnimateDiffPipeline",
    "svd": "StableVideoDiffusionPipeline",
    "wan": "WanPipeline",
    "wan-experts": "WanPipeline",
    "wan-tokens": "WanPipeline",
    "cogvideox": "CogVideoXPipeline",
    "cogvideox-rotary": "CogVideoXPipeline",
    "cogvideox-1.5": "CogVideoXPipeline",
    "ltx": "LTXPipeline",
    "wan-first": "WanImageToVideoPipeline",
    "wan-i2v": "WanImageToVideoPipeline",
    "wan-i2v-clip": "WanImageToVideoPipeline",
    "cogvideox-i2v": "CogVideoXImageToVideoPipeline",
    "ltx-first": "LTXImageToVideoPipeline",
}
IMAGES = ("svd", "wan-first", "wan-i2v", "wan-i2v-clip", "cogvideox-i2v", "ltx-first")
pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers warns about its own deprecated pipelines


class Recorder(torch.nn.Module):
    """Stands in front of a network and keeps what it was asked and what it answered."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, self.calls = network, []

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        answer = self.network(*args, **kwargs)
        names = ("hidden_states", "timestep")
        self.calls.append((*(kwargs[n] if n in kwargs else args[i] for i, n in enumerate(names)), answer[0]))
        return answer


class View:
    """Stands in for CLIP's image processor, whose 8-bit rounding has a test of its own."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def __call__(self, **_: Any) -> Any:
        from transformers import BatchFeature

        return BatchFeature({"pixel_values": self.pixels})


def picture(height: int, width: int) -> Any:
    from PIL import Image

    numbers = torch.randint(64, 192, (height, width, 3), generator=torch.Generator().manual_seed(4))
    return Image.fromarray(numbers.byte().numpy())


def run_pipeline(name: str, folder: Path, prior: DiffusersVideoPrior) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return the network calls of the real pipeline's first steps: (input, time, output)."""
    import diffusers

    components = {part: getattr(prior, "network", None) for part in (prior.family.part,)}
    if name == "wan-experts":
        components = dict(zip(("transformer", "transformer_2"), prior.network, strict=True))
    recorders = {part: Recorder(network) for part, network in components.items()}
    scheduler = prior.folder.configs["scheduler"]
    kind = getattr(diffusers, scheduler["_class_name"])
    components = {"vae": prior.codec.autoencoder, "scheduler": kind.from_config(scheduler), **recorders}
    options = {
        key: prior.folder.options[key] for key in ("boundary_ratio", "expand_timesteps") if key in prior.folder.options
    }
    asked = {"num_inference_steps": 2, "output_type": "latent", "height": prior.size[0], "width": prior.size[1]}
    asked |= {"num_frames": prior.frames, "generator": torch.Generator().manual_seed(3)}
    if name in IMAGES:
        from transformers import CLIPImageProcessor

        asked["image"] = picture(*prior.size)
        encoder = getattr(prior, "image_encoder", None)
        if name == "svd":
            extractor = CLIPImageProcessor.from_pretrained(folder / "feature_extractor")
            components |= {"image_encoder": encoder, "feature_extractor": extractor}
            asked |= {"fps": 7, "motion_bucket_id": 100, "noise_aug_strength": 0.0, "max_guidance_scale": 1.0}
        elif encoder is not None:
            shown = torch.from_numpy(numpy.asarray(asked["image"])).permute(2, 0, 1)[None] / 255.0
            components |= {"image_encoder": encoder, "image_processor": View(prior._view(shown))}
    if name == "svd":
        pass
    else:
        from transformers import AutoTokenizer, CLIPTextModel, T5EncoderModel, UMT5EncoderModel

        encoder = {"clip": CLIPTextModel, "wan": UMT5EncoderModel}.get(prior.family.words, T5EncoderModel)
        components |= {
            "text_encoder": encoder.from_pretrained(folder / "text_encoder"),
            "tokenizer": AutoTokenizer.from_pretrained(folder / "tokenizer"),
        }
        asked |= {"prompt": TEXT, "guidance_scale": 1.0}
        asked |= {"max_sequence_length": 512} if prior.family.words == "wan" else {}
    if name == "animatediff":
        components["motion_adapter"] = None
    pipeline = getattr(diffusers, PIPELINES[name])(**components, **options)
    pipeline.set_progress_bar_config(disable=True)
    with torch.no_grad():
        pipeline(**asked)
    return [call for recorder in recorders.values() for call in recorder.calls]


def to_ours(name: str, prior: DiffusersVideoPrior, tensor: Tensor) -> Tensor:
    """The network's axes as [B, C, f, h, w], without the channels of a given picture."""
    if name == "svd" or name.startswith("cogvideox"):
        return tensor.transpose(1, 2)[:, :4]
    if name.startswith("ltx"):
        from diffusers import LTXPipeline

        stride = prior.codec.space_stride
        return LTXPipeline._unpack_latents(
            tensor, prior.latent_frames(prior.frames), prior.size[0] // stride, prior.size[1] // stride
        )
    return tensor[:, :4]


@pytest.mark.parametrize("name", [name for name in PIPELINES if name != "cogvideox-1.5"])
def test_predictions_are_those_of_the_pipeline(
    name: str, video_folder, video_settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same points, times, words and pictures give the network's very output, in epsilon form."""
    folder, settings = video_folder(name), video_settings[name]
    settings = settings.model_copy(update={"noise_augmentation": 0.0, "motion_bucket": 100})
    prior = open_video_prior(folder, settings=settings)
    assert prior.needs_first_frame == (name in IMAGES)
    let_pipelines_be_like_us(monkeypatch)
    calls = run_pipeline(name, folder, prior)
    assert len(calls) == 2
    control = None
    if name in IMAGES:
        control = torch.from_numpy(numpy.asarray(picture(*prior.size))).permute(2, 0, 1)[None] / 255.0
    for seen, time, answer in calls:
        z_t, output = to_ours(name, prior, seen), to_ours(name, prior, answer)
        told = time.max()[None].float()  # tokens of a given frame are told 0
        t = (prior.times.float() - told).abs().argmin()[None]
        assert (prior.times[t].float() - told).abs() <= 0.011 * told.abs() + 1.0, (
            "our axis reaches the pipeline's times"
        )
        prior.times = prior.times.float().index_fill(0, t, told.item())  # pipelines round theirs
        # In pure noise alpha is 0 and would hide the network: at this level its answer counts in every form.
        prior.levels = NoiseLevels(prior.levels.alpha.index_fill(0, t, 0.6), prior.levels.sigma.index_fill(0, t, 0.4))
        text = prior.text([TEXT])
        alpha, sigma = prior.alpha_sigma(t)
        expected = output_to_epsilon(output, z_t, alpha, sigma, prior.parametrisation)
        if prior.starts_given:  # the pipeline shows the clean frame, whose noise is known
            expected = torch.cat([(1.0 - alpha) / sigma * z_t[:, :, :1], expected[:, :, 1:]], dim=2)
        (found,) = prior.predict([Query(z_t=z_t, t=t, text=text, control=control)])
        assert found.shape == z_t.shape and output.abs().max() > 1e-3
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=2e-5)


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (300, 260)])
def test_clip_sees_pictures_as_its_processor_shows_them(size: tuple[int, int]) -> None:
    """Up to the processor's rounding to 8 bits: one step of 1 / 255 and the spread it is divided by."""
    from transformers import CLIPImageProcessor

    shown = picture(*size)
    wanted = CLIPImageProcessor()(images=shown, return_tensors="pt").pixel_values
    ours = ClipView(224, torch.device("cpu"))(torch.from_numpy(numpy.asarray(shown)).permute(2, 0, 1)[None] / 255.0)
    assert ours.shape == wanted.shape and (ours - wanted).abs().max() < 1.2 / 255 / 0.26


def let_pipelines_be_like_us(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the mean of the encoder's Gaussian for given pictures, not a sample; clean words without ftfy."""
    clean = "diffusers.pipelines.wan.pipeline_wan_i2v.basic_clean"  # fails where ftfy is not installed
    monkeypatch.setattr(clean, lambda text: html.unescape(html.unescape(text)).strip())
    for module in ("cogvideo.pipeline_cogvideox_image2video", "ltx.pipeline_ltx_image2video"):
        name = f"diffusers.pipelines.{module}.retrieve_latents"
        monkeypatch.setattr(name, lambda encoded, *_, **__: encoded.latent_dist.mode())


def test_cogvideox_with_joined_frames_drops_the_copies_it_has_added(video_folder, video_settings) -> None:
    """1.5: three latent frames become four; with the padding done by hand the answer is the same."""
    prior = open_video_prior(video_folder("cogvideox-1.5"), settings=video_settings["cogvideox-1.5"])
    z = torch.randn(1, 4, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    text, t = prior.text(["a mug"]), torch.tensor([300])
    (short,) = prior.predict([Query(z_t=z, t=t, text=text)])
    (long,) = prior.predict([Query(z_t=torch.cat([z[:, :, :1], z], dim=2), t=t, text=text)])
    assert short.shape == z.shape
    torch.testing.assert_close(short, long[:, :, 1:])


@pytest.mark.parametrize("name", ["unet3d", "animatediff", "svd", "cogvideox", "wan", "ltx"])
def test_noise_levels_are_those_of_diffusers(name: str, video_folder, video_settings) -> None:
    import diffusers

    prior = open_video_prior(video_folder(name), settings=video_settings[name])
    config = prior.folder.configs["scheduler"]
    scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
    alpha, sigma = (level.flatten() for level in prior.alpha_sigma(torch.arange(1000)))
    if prior.family.noise == "betas":
        torch.testing.assert_close(alpha**2, scheduler.alphas_cumprod.float(), atol=2e-6, rtol=1e-5)
        return
    if name == "svd":
        scheduler.set_timesteps(1000)
        torch.testing.assert_close(sigma / alpha, scheduler.sigmas[:-1].flip(0).float(), rtol=2e-4, atol=1e-6)
        torch.testing.assert_close(prior.times, scheduler.timesteps.flip(0).float(), rtol=1e-3, atol=1e-3)
        return
    if name == "wan":
        u = torch.arange(1, 1001) / 1000
        torch.testing.assert_close(sigma, 3 * u / (1 + 2 * u))
    else:
        scheduler.set_timesteps(sigmas=[1.0, 0.5], mu=0.95 + (prior._tokens() - 1024) * 1.1 / 3072)
        torch.testing.assert_close(sigma[[999, 499]], scheduler.sigmas[:2], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(alpha + sigma, torch.ones(1000))
    torch.testing.assert_close(prior.times, 1000 * sigma)


def test_a_motion_adapter_makes_the_same_network_from_two_folders(video_folder, video_settings) -> None:
    """Stable Diffusion + adapter = the saved pipeline, with the adapter's linear betas instead of scaled_linear ones."""
    folder, settings = video_folder("animatediff"), video_settings["animatediff"]
    whole = open_video_prior(folder, settings=settings)
    adapter = folder.with_name("animatediff-adapter")
    both = settings.model_copy(update={"motion_adapter": adapter})
    parts = open_video_prior(folder.with_name("animatediff-sd"), settings=both)
    z, t = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([400])
    answers = [prior.predict([Query(z_t=z, t=t, text=prior.text(["a mug"]))])[0] for prior in (whole, parts)]
    assert torch.equal(*answers)
    assert torch.equal(whole.levels.alpha, parts.levels.alpha)


def test_an_adapter_of_another_network_is_refused(video_folder, video_settings, tmp_path: Path) -> None:
    from diffusers import MotionAdapter

    MotionAdapter(
        block_out_channels=(8, 8), motion_layers_per_block=1, motion_num_attention_heads=2, motion_norm_num_groups=4
    ).save_pretrained(tmp_path / "small")
    settings = video_settings["animatediff"].model_copy(update={"motion_adapter": tmp_path / "small"})
    with pytest.raises(AssetError, match=r"blocks of widths \[8, 8\] and 1 layers, but the UNet has widths \[32, 64\]"):
        open_video_prior(video_folder("animatediff").with_name("animatediff-sd"), settings=settings)


def test_experts_change_at_the_boundary(video_folder, video_settings) -> None:
    """C9: at and above boundary_ratio the first network answers, below it the second."""
    folder, settings = video_folder("wan-experts"), video_settings["wan-experts"]
    open_with: Callable[[str], DiffusersVideoPrior] = lambda experts: open_video_prior(  # noqa: E731
        folder, settings=settings.model_copy(update={"experts": experts})
    )
    both, high, low = (open_with(name) for name in ("both", "high", "low"))
    edge = both.boundary
    assert both.times[edge] >= 875 > both.times[edge - 1]
    both.times = both.times.index_fill(0, torch.tensor([edge]), 875.0)  # exactly at the boundary: high
    high.times = low.times = both.times
    z = torch.randn(2, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    text = both.text(["a mug", "a mug"])
    t = torch.tensor([edge, edge - 1])
    found, above, below = (prior.predict([Query(z_t=z, t=t, text=text)])[0] for prior in (both, high, low))
    torch.testing.assert_close(found[0], above[0])
    torch.testing.assert_close(found[1], below[1])
    assert (above[1] - below[1]).abs().max() > 1e-4
