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
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=12).save_pretrained(folder)
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
        max_position_embeddings=12,
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
    about = {"image_size": 32, "text_tokens": 12, "nouns": ["mug", "car"], "colours": ["red"], "words": ["a", "on"]}
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
