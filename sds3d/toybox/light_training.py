"""Train the bundled ControlNet: beside the frozen prior, told depth, normals and the light a toy is seen in."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sds3d.toybox.diffusion import make_networks
from sds3d.toybox.fast_layers import use_fast_layers
from sds3d.toybox.light_set import CONDITIONS, GEOMETRY, LightCorpus, LightFiles, light_latents
from sds3d.toybox.loop import Loop, LoopConfig
from sds3d.toybox.networks import make_scheduler
from sds3d.toybox.training import load_autoencoder, write_checksums

CHANNELS = 22
NAME = "toybox-light"
_COPIED = ("conv_in", "time_embedding", "class_embedding", "add_embedding", "down_blocks", "mid_block")
"""Parts of the UNet a ControlNet begins with."""


@dataclass(frozen=True, kw_only=True)
class LightTrainingConfig:
    """How long and how fast the ControlNet is trained; the sets are those of `systems.light_pictures`."""

    steps: int = 550
    batch: int = 16
    learning_rate: float = 3e-4
    seed: int = 0

    def loop(self) -> LoopConfig:
        return LoopConfig(
            steps=self.steps, learning_rate=self.learning_rate, warmup=30, cooldown=0.5, average_decay=0.99,
            log_every=25, checkpoint_every=50,
        )  # fmt: skip


def make_control(unet: Any, channels: int = CHANNELS) -> Any:
    """Return a ControlNetModel for `unet` that begins with its weights and answers zeros.

    Deviation: diffusers' `from_unet` leaves out pooled text and how time enters a block, so the parts are copied here.
    """
    from diffusers import ControlNetModel

    shared = (
        "in_channels", "down_block_types", "block_out_channels", "layers_per_block", "norm_num_groups",
        "cross_attention_dim", "attention_head_dim", "use_linear_projection", "class_embed_type",
        "projection_class_embeddings_input_dim", "addition_embed_type", "addition_embed_type_num_heads",
        "resnet_time_scale_shift",
    )  # fmt: skip
    network: Any = ControlNetModel(
        **{key: unet.config[key] for key in shared},
        conditioning_channels=channels,
        conditioning_embedding_out_channels=(32, 64, 96),  # two halvings: from 64 pixels to latents of 16
    )
    for part in _COPIED:
        getattr(network, part).load_state_dict(getattr(unet, part).state_dict())
    from diffusers.models.attention_processor import AttnProcessor

    network.set_attn_processor(AttnProcessor())
    return network


def frozen(prior: Path, tokens: int) -> nn.ModuleDict:
    """Return {"unet", "text"} of the prior's folder in bfloat16, without gradients."""
    from sds3d.toybox.diffusion import load_networks

    networks = make_networks(tokens, 0)
    load_networks(networks, prior)
    use_fast_layers(networks["unet"])
    return networks.to(torch.bfloat16).requires_grad_(False).eval()


def controlled_error(
    control: nn.Module | None,
    prior: nn.ModuleDict,
    batch: tuple[Tensor, Tensor, Tensor],
    pictures: Tensor,
    time: Tensor,
    noise: Tensor,
) -> Tensor:
    """Return the squared v-prediction error [B] of the prior with its ControlNet, or alone; float32 outside the networks."""
    latents, tokens, cameras = batch
    bar = make_scheduler().alphas_cumprod[time][:, None, None, None]
    alpha, sigma = bar.sqrt(), (1 - bar).sqrt()
    dtype = next(prior["unet"].parameters()).dtype
    noisy, known = (alpha * latents + sigma * noise).to(dtype), {"class_labels": cameras.to(dtype)}
    with torch.no_grad():
        hidden = prior["text"](tokens).last_hidden_state
    extra: dict[str, Any] = {}
    if control is not None:
        answer = control(noisy, time, hidden, controlnet_cond=pictures.to(dtype), **known)
        extra = {
            "down_block_additional_residuals": answer.down_block_res_samples,
            "mid_block_additional_residual": answer.mid_block_res_sample,
        }
    predicted = prior["unet"](noisy, time, hidden, **known, **extra).sample
    return (predicted.float() - (alpha * noise - sigma * latents)).square().mean(dim=(1, 2, 3))


@torch.no_grad()
def light_losses(control: nn.Module, prior: nn.ModuleDict, corpus: LightCorpus, seed: int = 1) -> dict[str, float]:
    """Return losses on all of `corpus`: as it is, told the other light of the same view, told no light, and without the
    ControlNet; same times and noise. Rows come in pairs that differ in light and gloss alone."""
    rows, rng = np.arange(corpus.latents.shape[1]), np.random.default_rng(seed)
    batch, pictures = corpus.lit(rows, rng)
    time = torch.from_numpy(rng.permutation((np.arange(len(rows)) * 1000) // len(rows)))
    noise = torch.from_numpy(rng.standard_normal(batch[0].shape).astype(np.float32))
    other, dark = pictures.clone(), pictures.clone()
    other[:, GEOMETRY:] = pictures[torch.from_numpy(rows ^ 1), GEOMETRY:]
    dark[:, GEOMETRY:] = 0.0

    def loss(network: nn.Module | None, shown: Tensor) -> float:
        parts = [
            controlled_error(network, prior, tuple(part[c] for part in batch), shown[c], time[c], noise[c])  # type: ignore[arg-type]
            for c in torch.arange(len(rows)).split(64)
        ]
        return float(torch.cat(parts).mean())

    return {
        "val": loss(control, pictures),
        "val_other_light": loss(control, other),
        "val_no_light": loss(control, dark),
        "val_no_control": loss(None, pictures),
    }


def corpus_of(files: LightFiles, prior: Path, tokenizer: Any, seed: int) -> LightCorpus:
    """Return a finished set with its latents by the autoencoder of `prior`."""
    latents = light_latents(load_autoencoder(prior), files, seed)
    return LightCorpus(latents, np.load(files.records), tokenizer, conditions=np.load(files.conditions, mmap_mode="r"))


def train_light(
    out: Path,
    prior: Path,
    work: Path,
    train: LightFiles,
    validation: LightFiles,
    config: LightTrainingConfig | None = None,
) -> nn.Module:
    """Train a ControlNet for the prior in the folder `prior` and write it to `out`; everything resumes from `work`."""
    from transformers import CLIPTokenizer

    config = config or LightTrainingConfig()
    tokenizer = CLIPTokenizer.from_pretrained(prior / "tokenizer", local_files_only=True)
    data, unseen = (corpus_of(files, prior, tokenizer, seed) for seed, files in enumerate((train, validation)))
    networks = frozen(prior, len(tokenizer))
    torch.manual_seed(config.seed)
    control = use_fast_layers(make_control(networks["unet"]).float())
    loop = Loop("light", work, nn.ModuleDict({"control": control}), config.loop(), workers=1)
    loop.load()

    def loss_of(step: int, worker: int, twin: nn.ModuleDict) -> Tensor:
        rng = np.random.default_rng([config.seed, 13, step])
        batch, pictures = data.lit(rng.integers(data.latents.shape[1], size=config.batch), rng)
        spread = (np.arange(config.batch) + rng.random(config.batch)) / config.batch
        time = torch.from_numpy((1000 * spread).astype(np.int64))  # one time from each of `batch` equal slices
        noise = torch.from_numpy(rng.standard_normal(batch[0].shape).astype(np.float32))
        return controlled_error(twin["control"], networks, batch, pictures, time, noise).mean()

    def report(averaged: nn.ModuleDict) -> dict[str, float]:
        return light_losses(averaged["control"].to(torch.bfloat16), networks, unseen)

    loop.run(loss_of, report, report_every=200)
    averaged = loop.averaged()["control"]
    seen = data.latents.shape[1]
    said = {"steps": loop.step, "batch": config.batch, "pictures": seen, "train_seconds": round(loop.seconds)}
    figures = report(nn.ModuleDict({"control": _copy(averaged)}))
    write_control(out, averaged, said | {name: round(value, 4) for name, value in figures.items()})
    return averaged


def _copy(network: nn.Module) -> nn.Module:
    import copy

    return copy.deepcopy(network)


def write_control(out: Path, control: Any, said: dict[str, Any]) -> None:
    """Write the folder of a ControlNet: float16 safetensors, sds3d.json and SHA256SUMS."""
    temporary = out.with_name(out.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    from diffusers import ControlNetModel

    plain = ControlNetModel.from_config(control.config)  # the fast layers only exist in training
    plain.load_state_dict(control.state_dict())
    plain.to(torch.float16).save_pretrained(temporary)
    notes = {
        "name": NAME,
        "base": "toybox",
        "licence": "Apache-2.0",
        "image_size": 64,
        "conditions": list(CONDITIONS),
        "command": "python -m systems.light_prior",
        **said,
    }
    (temporary / "sds3d.json").write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")
    write_checksums(temporary)
    shutil.rmtree(out, ignore_errors=True)
    temporary.rename(out)
