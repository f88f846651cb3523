"""Shared toys for video priors: a small exact prior, and tiny random pipelines of every family in diffusers' classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sds3d.priors.noise_levels import NoiseLevels
from sds3d.priors.video.exact import ExactVideoPrior
from sds3d.priors.video.settings import VideoSettings

BETAS = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
}
SETTINGS = {
    "unet3d": VideoSettings(frames=3),
    "animatediff": VideoSettings(frames=3, height=16, width=16),
    "stacked": VideoSettings(),
    "stacked-balanced": VideoSettings(),
    "svd": VideoSettings(height=16, width=24),
    "wan": VideoSettings(frames=5, height=32, width=48),
    "wan-experts": VideoSettings(frames=5, height=32, width=32),
    "wan-tokens": VideoSettings(frames=5, height=32, width=32),
    "wan-first": VideoSettings(frames=5, height=32, width=48, from_first_frame=True),
    "wan-i2v": VideoSettings(frames=5, height=32, width=48),
    "wan-i2v-clip": VideoSettings(frames=5, height=32, width=32),
    "cogvideox-i2v": VideoSettings(frames=9, height=16, width=24),
    "ltx-first": VideoSettings(frames=9, height=64, width=32, from_first_frame=True),
    "cogvideox": VideoSettings(frames=9),
    "cogvideox-rotary": VideoSettings(frames=9, height=16, width=24),
    "cogvideox-1.5": VideoSettings(frames=9, height=16, width=24),
    "ltx": VideoSettings(frames=9, height=64, width=32),
}
"""What each tiny pipeline is opened with; the smallest clips it takes."""


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def float64_levels(kind: str) -> NoiseLevels:
    """Levels whose alpha^2 + sigma^2 (or alpha + sigma for "flow") is 1 to float64."""
    u = torch.linspace(0.02, 0.98, 1000, dtype=torch.float64)
    return NoiseLevels(alpha=1 - u if kind == "flow" else (1 - u**2).sqrt(), sigma=u)


@pytest.fixture
def make_exact() -> Callable[..., ExactVideoPrior]:
    """Return a function that builds an exact prior that knows "y" and ""; keywords go to its constructor."""

    def make(
        shape: tuple[int, ...] = (3, 4, 5, 6), dtype: torch.dtype = torch.float32, **settings: object
    ) -> ExactVideoPrior:
        means = {text: draw(*shape, seed=seed, dtype=dtype) for seed, text in enumerate(("y", ""))}
        if dtype == torch.float64 and "levels" not in settings:
            settings["levels"] = float64_levels(str(settings.get("parametrisation")))
        return ExactVideoPrior(means, **settings)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def video_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the folder of a tiny random pipeline, written once. Do not change its files."""
    root, written = tmp_path_factory.mktemp("video"), {}

    def folder(name: str) -> Path:
        if name not in written:
            torch.manual_seed(0)  # diffusers initialises from the global generator only
            written[name] = root / name
            _PIPELINES[name](root / name)
        return written[name]

    return folder


@pytest.fixture(scope="session")
def video_settings() -> dict[str, VideoSettings]:
    """What each pipeline is opened with."""
    return SETTINGS


def _save(folder: Path, scheduler: dict[str, Any], index: dict[str, Any] | None = None, **parts: Any) -> None:
    names = {}
    for part, network in parts.items():
        network.save_pretrained(folder / part)
        names[part] = ["library", type(network).__name__]
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    (folder / "model_index.json").write_text(json.dumps({**names, **(index or {})}))


def _clip_text() -> dict[str, Any]:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    alphabet = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = [*alphabet, *(letter + "</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=12,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
        pad_token_id=len(words) - 1,
    )
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=12)
    return {"text_encoder": CLIPTextModel(config), "tokenizer": tokenizer}


def _t5_text(is_multilingual: bool = False) -> dict[str, Any]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast, UMT5Config, UMT5EncoderModel

    pieces = ["<pad>", "</s>", "<unk>", "▁", *(chr(c) for c in range(33, 127))]
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=2))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0)
    kinds = (UMT5Config, UMT5EncoderModel) if is_multilingual else (T5Config, T5EncoderModel)
    config = kinds[0](vocab_size=len(pieces), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return {"text_encoder": kinds[1](config), "tokenizer": fast}


def _autoencoder(kind: str = "AutoencoderKL") -> Any:
    import diffusers

    blocks = {"block_out_channels": (8, 8), "norm_num_groups": 4, "scaling_factor": 0.7}
    if kind == "AutoencoderKL":
        return diffusers.AutoencoderKL(
            **blocks,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
        )
    blocks.pop("norm_num_groups")
    return diffusers.AutoencoderKLTemporalDecoder(
        **(blocks | {"block_out_channels": (32, 32)}), down_block_types=("DownEncoderBlock2D",) * 2
    )


def _unet3d(folder: Path) -> None:
    from diffusers import UNet3DConditionModel

    unet = UNet3DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=8,
        cross_attention_dim=16,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    )
    for module in unet.modules():  # temporal convolutions start at zero: order in time would be untested
        if type(module).__name__ == "TemporalConvLayer":
            torch.nn.init.normal_(module.conv4[-1].weight, std=0.1)
    _save(folder, {"_class_name": "DDIMScheduler", **BETAS}, unet=unet, vae=_autoencoder(), **_clip_text())


def _animatediff(folder: Path) -> None:
    """A whole pipeline, and beside it (`-sd`, `-adapter`) the same one in two parts."""
    from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel

    pictures = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=8,
        cross_attention_dim=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    adapter = MotionAdapter(
        block_out_channels=(32, 64),
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=16,
        motion_max_seq_length=6,
    )
    for module in adapter.modules():  # the output layers of motion modules start at zero: motion would be untested
        if type(module).__name__ == "Linear":
            torch.nn.init.normal_(module.weight, std=0.1)
    whole = UNetMotionModel.from_unet2d(pictures, adapter)
    vae, text = _autoencoder(), _clip_text()
    _save(folder, {"_class_name": "DDIMScheduler", **BETAS, "beta_schedule": "linear"}, unet=whole, vae=vae, **text)
    other = {"_class_name": "PNDMScheduler", **BETAS}
    _save(folder.with_name(folder.name + "-sd"), other, unet=pictures, vae=vae, **text)
    adapter.save_pretrained(folder.with_name(folder.name + "-adapter"))


def _stacked(folder: Path, **said: Any) -> None:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=3 * 4,
        out_channels=3 * 4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=8,
        cross_attention_dim=16,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    scheduler = {"_class_name": "DDPMScheduler", **BETAS, "prediction_type": "v_prediction"}
    _save(folder, scheduler, {"_class_name": "StackedFramesPipeline"}, unet=unet, vae=_autoencoder(), **_clip_text())
    (folder / "sds3d.json").write_text(json.dumps({"frames": 3, **said}))


def _vision(kind: str) -> Any:
    import transformers

    vision = transformers.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=224,
        patch_size=112,
        projection_dim=16,
    )
    return getattr(transformers, kind)(vision)


def _svd(folder: Path) -> None:
    from diffusers import UNetSpatioTemporalConditionModel
    from transformers import CLIPImageProcessor

    unet = UNetSpatioTemporalConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        num_attention_heads=(2, 4),
        cross_attention_dim=16,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        num_frames=3,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    )
    scheduler = {
        "_class_name": "EulerDiscreteScheduler",
        **BETAS,
        "prediction_type": "v_prediction",
        "timestep_type": "continuous",
        "use_karras_sigmas": True,
        "sigma_min": 0.002,
        "sigma_max": 700.0,
        "timestep_spacing": "leading",
        "steps_offset": 1,
    }
    vae = _autoencoder("AutoencoderKLTemporalDecoder")
    parts = {"image_encoder": _vision("CLIPVisionModelWithProjection"), "feature_extractor": CLIPImageProcessor()}
    _save(folder, scheduler, unet=unet, vae=vae, **parts)


def _wan(folder: Path, index: dict[str, Any] | None = None, sees: bool = False, **changes: Any) -> None:
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    def transformer() -> Any:
        return WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            **{"in_channels": 4, **changes},
            out_channels=4,
            text_dim=16,
            freq_dim=16,
            ffn_dim=32,
            num_layers=2,
            rope_max_seq_len=32,
        )

    vae = AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1, -0.2, 0.3, 0.4],
        latents_std=[0.5, 1.5, 2.0, 0.8],
    )
    scheduler = {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True, "flow_shift": 3.0}
    scheduler |= {"prediction_type": "flow_prediction", "num_train_timesteps": 1000}
    second = {"transformer_2": transformer()} if index and "boundary_ratio" in index else {}
    if sees:
        second |= {"image_encoder": _vision("CLIPVisionModel")}
    _save(folder, scheduler, index, transformer=transformer(), vae=vae, **second, **_t5_text(is_multilingual=True))


def _cogvideox(folder: Path, **changes: Any) -> None:
    from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel

    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        **{"in_channels": 4, **changes},
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=16,
        num_layers=1,
        sample_width=6,
        sample_height=4,
        sample_frames=9,
        max_text_seq_length=226,
    )
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8),
        down_block_types=("CogVideoXDownBlock3D",) * 3,
        up_block_types=("CogVideoXUpBlock3D",) * 3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
        scaling_factor=0.7,
    )
    scheduler = {"_class_name": "CogVideoXDDIMScheduler", **BETAS, "prediction_type": "v_prediction"}
    scheduler |= {"snr_shift_scale": 2.0, "rescale_betas_zero_snr": True}
    _save(folder, scheduler, transformer=transformer, vae=vae, **_t5_text())


def _ltx(folder: Path) -> None:
    from diffusers import AutoencoderKLLTXVideo, LTXVideoTransformer3DModel

    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=16,
    )
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
    )
    vae.latents_mean.copy_(draw(8, seed=1))
    vae.latents_std.copy_(draw(8, seed=2).abs() + 0.5)
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 1.0}
    scheduler |= {"use_dynamic_shifting": True, "base_shift": 0.95, "max_shift": 2.05}
    scheduler |= {"base_image_seq_len": 1024, "max_image_seq_len": 4096}
    _save(folder, scheduler, transformer=transformer, vae=vae, **_t5_text())


_PIPELINES: dict[str, Callable[[Path], None]] = {
    "unet3d": _unet3d,
    "animatediff": _animatediff,
    "stacked": _stacked,
    "stacked-balanced": lambda folder: _stacked(folder, frame_scales=[2.5, 0.7, 0.2]),
    "svd": _svd,
    "wan": _wan,
    "wan-experts": lambda folder: _wan(folder, {"boundary_ratio": 0.875}),
    "wan-tokens": lambda folder: _wan(folder, {"expand_timesteps": True}),
    "wan-first": lambda folder: _wan(folder, {"expand_timesteps": True}),
    "wan-i2v": lambda folder: _wan(folder, in_channels=12),
    "wan-i2v-clip": lambda folder: _wan(
        folder, sees=True, in_channels=12, image_dim=16, added_kv_proj_dim=24, pos_embed_seq_len=None
    ),
    "cogvideox-i2v": lambda folder: _cogvideox(folder, use_rotary_positional_embeddings=True, in_channels=8),
    "ltx-first": _ltx,
    "cogvideox": _cogvideox,
    "cogvideox-rotary": lambda folder: _cogvideox(folder, use_rotary_positional_embeddings=True),
    "cogvideox-1.5": lambda folder: _cogvideox(folder, use_rotary_positional_embeddings=True, patch_size_t=2),
    "ltx": _ltx,
}
