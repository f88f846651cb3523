"""Sizes and constructors of the bundled prior's networks (diffusers and transformers classes)."""

from __future__ import annotations

from typing import Any

from sds3d.priors.camera_condition import FEATURE_SIZES
from sds3d.toybox.dataset import IMAGE_SIZE
from sds3d.toybox.tokenizer import MAX_TOKENS

DOWNSCALE = 4
LATENT_CHANNELS, LATENT_SIZE, TEXT_WIDTH = 4, IMAGE_SIZE // DOWNSCALE, 128
CAMERA_CONDITION = "fourier"


def make_autoencoder() -> Any:
    """Return an untrained AutoencoderTiny, 64 px -> 16x16x4 latents. At 8x8x8 it blurs outlines and mixes colours."""
    from diffusers import AutoencoderTiny

    width = (32, 32, 32)
    return AutoencoderTiny(
        encoder_block_out_channels=width,
        decoder_block_out_channels=width,
        num_encoder_blocks=(1, 1, 2),
        num_decoder_blocks=(2, 2, 1),
        latent_channels=LATENT_CHANNELS,
    )


def make_text_encoder(vocabulary_size: int) -> Any:
    """Return an untrained two-layer CLIP text encoder."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=vocabulary_size,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=TEXT_WIDTH,
        bos_token_id=vocabulary_size - 2,
        eos_token_id=vocabulary_size - 1,
        pad_token_id=vocabulary_size - 1,
    )
    # The fused CPU attention takes longer backward than the plain one at 24 tokens.
    return CLIPTextModel._from_config(config, attn_implementation="eager")


def make_unet(
    camera_condition: str = CAMERA_CONDITION, channels: tuple[int, ...] = (64, 128, 192), frames: int = 1
) -> Any:
    """Return an untrained UNet with cross-attention at 4x4; camera, pooled text and time scale and shift every block.

    With `frames` above 1 it takes that many frames of a clip side by side as channels.
    """
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=frames * LATENT_CHANNELS,
        out_channels=frames * LATENT_CHANNELS,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        use_linear_projection=True,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="projection",
        projection_class_embeddings_input_dim=FEATURE_SIZES[camera_condition],
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


def make_scheduler() -> Any:
    """Return the noise schedule of Stable Diffusion with v-prediction."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
    )
