"""A model in one file, in the layout of Stable Diffusion's makers, answers exactly as the folder it was made from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sds3d.config import PriorConfig
from sds3d.errors import AssetError
from sds3d.priors.base import Query
from sds3d.priors.open import open_prior
from sds3d.priors.single_file import unpacked

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
BLOCKS = {
    # The places of a UNet with two levels of one layer in CompVis' list of blocks.
    "conv_in": "input_blocks.0.0",
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "down_blocks.1.attentions.0": "input_blocks.3.1",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.attentions.0": "output_blocks.0.1",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.attentions.1": "output_blocks.1.1",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
LEVELS = 2
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_name(name: str) -> str:
    """Return CompVis' name of a diffusers UNet tensor."""
    block = next(block for block in sorted(BLOCKS, key=len, reverse=True) if name.startswith(f"{block}."))
    rest = name.removeprefix(block)
    if ".resnets." in f".{block}":
        rest = re.sub(r"^\.(\w+)", lambda found: f".{RESNET[found[1]]}", rest)
    return f"model.diffusion_model.{BLOCKS[block]}{rest}"


def vae_name(name: str) -> str:
    """Return CompVis' name of a diffusers autoencoder tensor; decoder levels are counted from the other end there."""
    name = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.", lambda f: f"up.{LEVELS - 1 - int(f[1])}.block.", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda f: f"up.{LEVELS - 1 - int(f[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda f: f"mid.block_{int(f[1]) + 1}", name)
    for ours, theirs in ATTENTION.items():
        name = name.replace(f"mid_block.attentions.0.{ours}.", f"mid.attn_1.{theirs}.")
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    return f"first_stage_model.{name}"


def as_one_file(folder: Path, file: Path) -> Path:
    """Write the networks of a pipeline folder into one file, in CompVis' layout."""
    from safetensors.torch import load_file, save_file

    unet, vae = (load_file(folder / part / "diffusion_pytorch_model.safetensors") for part in ("unet", "vae"))
    words = load_file(folder / "text_encoder" / "model.safetensors")
    prefix = "" if any(name.startswith("text_model.") for name in words) else "text_model."
    tensors: dict[str, Tensor] = {unet_name(name): tensor for name, tensor in unet.items()}
    for name, tensor in vae.items():
        is_projection = ".attentions." in name and "group_norm" not in name and tensor.ndim == 2
        tensors[vae_name(name)] = tensor[..., None, None] if is_projection else tensor
    tensors |= {f"cond_stage_model.transformer.{prefix}{name}": tensor for name, tensor in words.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    return file


@pytest.fixture
def single(tmp_path: Path, sd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny Stable Diffusion 1.x in one file."""
    monkeypatch.setenv("SDS3D_CACHE", str(tmp_path / "cache"))
    return as_one_file(sd_folder, tmp_path / "my-model.safetensors")


def test_a_single_file_answers_as_its_folder(single: Path, sd_folder: Path) -> None:
    config = PriorConfig(path=str(single), base=str(sd_folder))
    one, other = open_prior(config), open_prior(sd_folder)
    rgb = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    z = one.encode(rgb)
    assert torch.equal(z, other.encode(rgb)) and torch.equal(one.decode(z), other.decode(z))
    text = one.text(["a red mug"])
    assert torch.equal(text, other.text(["a red mug"]))
    query = Query(
        z_t=torch.randn(z.shape, generator=torch.Generator().manual_seed(1)), t=torch.tensor([500]), text=text
    )
    assert torch.equal(one.predict([query])[0], other.predict([query])[0])


def test_it_is_taken_apart_once_and_a_changed_file_again(single: Path, sd_folder: Path) -> None:
    first = unpacked(single, sd_folder)
    stamp = (first / "model_index.json").stat().st_mtime_ns
    assert unpacked(single, sd_folder) == first and (first / "model_index.json").stat().st_mtime_ns == stamp
    assert [path.name for path in first.parent.iterdir()] == [first.name]  # nothing half-made stays
    single.touch()
    assert unpacked(single, sd_folder) != first


def test_a_foreign_base_is_refused(single: Path, sdxl_folder: Path) -> None:
    with pytest.raises(AssetError, match=r"my-model.safetensors' does not go with the configuration of .*prior.base"):
        unpacked(single, sdxl_folder)


def test_without_a_base_the_catalog_s_is_asked_for(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(AssetError, match="fetch sd15"):
        open_prior(single)
