"""A diffusers pipeline folder of tiny random networks, written once a test session."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

BYTE_ALPHABET = [chr(c) for c in range(ord("a"), ord("z") + 1)]


def _save_tokenizer(folder: Path) -> int:
    """Write a CLIP tokenizer that spells everything; return the size of its vocabulary."""
    from transformers import CLIPTokenizer

    letters = [*BYTE_ALPHABET, *(letter + "</w>" for letter in BYTE_ALPHABET)]
    vocabulary = {token: i for i, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=24).save_pretrained(folder)
    return len(vocabulary)


def _save_networks(folder: Path, vocabulary: int, autoencoder: str, camera_inputs: int | None) -> None:
    from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    text_config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=24,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    CLIPTextModel(text_config).save_pretrained(folder / "text_encoder")
    if autoencoder == "tiny":
        vae = AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8),
            decoder_block_out_channels=(8, 8, 8),
            num_encoder_blocks=(1, 1, 1),
            num_decoder_blocks=(1, 1, 1),
            scaling_factor=0.7,
        )
    else:
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            norm_num_groups=4,
            scaling_factor=0.7,
            shift_factor=0.1,
        )
    vae.save_pretrained(folder / "vae")
    UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=4,
        cross_attention_dim=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        class_embed_type=None if camera_inputs is None else "projection",
        projection_class_embeddings_input_dim=camera_inputs,
    ).save_pretrained(folder / "unet")


def make_folder(
    folder: Path, prediction_type: str = "v_prediction", autoencoder: str = "tiny", camera: str | None = "fourier"
) -> Path:
    """Write a loadable pipeline folder for 32-pixel images with 8x8x4 latents; return its path."""
    from sds3d.priors.camera_condition import FEATURE_SIZES

    torch.manual_seed(0)  # diffusers initialises from the global generator only
    vocabulary = _save_tokenizer(folder / "tokenizer")
    _save_networks(folder, vocabulary, autoencoder, None if camera is None else FEATURE_SIZES[camera])
    scheduler = {
        "_class_name": "DDPMScheduler",
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "num_train_timesteps": 1000,
        "prediction_type": prediction_type,
    }
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    about = {"image_size": 32, "text_tokens": 24, "nouns": ["mug", "car"], "colours": ["red"], "words": ["a", "on"]}
    if camera:
        about["camera_condition"] = camera
    (folder / "sds3d.json").write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A v-prediction prior with AutoencoderTiny and Fourier camera condition. Do not change its files."""
    return make_folder(tmp_path_factory.mktemp("prior") / "tiny")


@pytest.fixture(scope="session")
def kl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An epsilon-prediction prior with AutoencoderKL and no camera condition. Do not change its files."""
    return make_folder(tmp_path_factory.mktemp("prior") / "kl", "epsilon", "kl", None)


def _clip(vocabulary: int, width: int, projection: int | None = None, layers: int = 3) -> object:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=24,
        projection_dim=projection or width,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    return CLIPTextModel(config) if projection is None else CLIPTextModelWithProjection(config)


def _clip_tokenizer(folder: Path) -> object:
    from transformers import CLIPTokenizer

    _save_tokenizer(folder)
    return CLIPTokenizer.from_pretrained(folder)


def _unet(**changes: object) -> object:
    from diffusers import UNet2DConditionModel

    settings: dict[str, object] = {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "norm_num_groups": 16,
        "attention_head_dim": 4,
        "cross_attention_dim": 16,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    return UNet2DConditionModel(**(settings | changes))


def _autoencoder(**changes: object) -> object:
    from diffusers import AutoencoderKL

    settings: dict[str, object] = {
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 4,
        "scaling_factor": 0.13025,
    }
    return AutoencoderKL(**(settings | changes))


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion pipeline as diffusers saves it, three text layers, shift of latents. Do not change it."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    root = tmp_path_factory.mktemp("sd")
    torch.manual_seed(1)
    tokenizer = _clip_tokenizer(root / "words")
    pipeline = StableDiffusionPipeline(
        vae=_autoencoder(scaling_factor=0.18215, shift_factor=0.07),
        text_encoder=_clip(len(tokenizer), 16),  # type: ignore[arg-type]
        tokenizer=tokenizer,
        unet=_unet(),
        scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(root / "pipeline")
    return root / "pipeline"


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SDXL pipeline as diffusers saves it: text widths 16 and 24, pooled 20, 16-pixel images. Do not change it."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    root = tmp_path_factory.mktemp("sdxl")
    torch.manual_seed(2)
    first, second = _clip_tokenizer(root / "a"), _clip_tokenizer(root / "b")
    second.pad_token = "a"  # type: ignore[attr-defined]  # SDXL's second tokenizer pads with another token
    pipeline = StableDiffusionXLPipeline(
        vae=_autoencoder(force_upcast=True),
        text_encoder=_clip(len(first), 16),  # type: ignore[arg-type]
        text_encoder_2=_clip(len(second), 24, 20),  # type: ignore[arg-type]
        tokenizer=first,
        tokenizer_2=second,
        unet=_unet(
            cross_attention_dim=40,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=20 + 6 * 8,
        ),
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        add_watermarker=False,
    )
    pipeline.save_pretrained(root / "pipeline")
    return root / "pipeline"


@pytest.fixture(scope="session")
def if_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DeepFloyd IF stage I pipeline as diffusers saves it, for 8-pixel images. Do not change it."""
    from diffusers import DDPMScheduler, IFPipeline
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    root = tmp_path_factory.mktemp("if")
    torch.manual_seed(3)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), ("\u2581", -2.0), *((c, -3.0) for c in BYTE_ALPHABET)]
    tokenizer = T5TokenizerFast(vocab=pieces, extra_ids=0)
    config = T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    unet = _unet(
        in_channels=3,
        out_channels=6,
        encoder_hid_dim=32,
        encoder_hid_dim_type="text_proj",
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        resnet_time_scale_shift="scale_shift",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    )
    pipeline = IFPipeline(
        tokenizer=tokenizer,
        text_encoder=T5EncoderModel(config),
        unet=unet,
        scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="learned_range"),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(root / "pipeline")
    return root / "pipeline"


@pytest.fixture(scope="session")
def controlnet_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that writes a random ControlNet for the UNet of a pipeline folder and returns its path."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    made: dict[object, Path] = {}

    def make(pipeline: Path, channels: int, seed: int = 0) -> Path:
        if (pipeline, channels, seed) not in made:
            torch.manual_seed(seed)
            unet = UNet2DConditionModel.from_pretrained(pipeline / "unet")
            # as many halvings as the autoencoder has: one
            network = ControlNetModel.from_unet(
                unet, conditioning_embedding_out_channels=(8, 8), conditioning_channels=channels
            )
            for parameter in network.parameters():  # fresh ControlNets answer zero, which would test nothing
                torch.nn.init.normal_(parameter, std=0.05)
            made[pipeline, channels, seed] = tmp_path_factory.mktemp("controlnet") / str(channels)
            network.save_pretrained(made[pipeline, channels, seed])
        return made[pipeline, channels, seed]

    return make


@pytest.fixture
def broken_copy(tiny_folder: Path, tmp_path: Path) -> Callable[[str, bytes | None], Path]:
    """Return a function that copies the tiny folder and overwrites one file (None: deletes it)."""

    def copy(name: str, content: bytes | None) -> Path:
        target = tmp_path / "prior"
        shutil.copytree(tiny_folder, target)
        if content is None:
            (target / name).unlink()
        else:
            (target / name).write_bytes(content)
        return target

    return copy
