"""A broken prior folder is reported before anything heavy is imported, naming the file and what to do."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sds3d.errors import AssetError
from sds3d.priors.folder import PriorMetadata, check_folder, check_safetensors

UNET = "unet/diffusion_pytorch_model.safetensors"


def safetensors_bytes(header: dict, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_check_folder_finds_the_parts(tiny_folder: Path) -> None:
    folder = check_folder(tiny_folder)
    assert set(folder.configs) == {"text_encoder", "vae", "unet", "scheduler"}
    assert folder.weights["unet"] == (tiny_folder / UNET,) and folder.variants["unet"] is None
    assert folder.metadata.camera_condition == "fourier" and folder.metadata.image_size == 32


def test_check_folder_needs_no_heavy_package(tiny_folder: Path) -> None:
    code = (
        "import sys; from sds3d.priors.folder import check_folder; check_folder(sys.argv[1]); "
        "print([m for m in ('torch', 'numpy', 'diffusers', 'transformers', 'safetensors') if m in sys.modules])"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code, str(tiny_folder)], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (UNET, None, r"lacks the weights '.*unet.*safetensors'\. Give prior\.path"),
        (UNET, b"", "header does not fit into its 0 bytes"),
        (UNET, b"\xff" * 100, "header does not fit into its 100 bytes"),
        (UNET, struct.pack("<Q", 4) + b"nope", "header cannot be read"),
        (UNET, safetensors_bytes({"a": {"data_offsets": [0, 8]}}, b"1234"), "bytes where its header announces"),
        (UNET, safetensors_bytes({"a": 3}, b""), "header cannot be read"),
        (UNET, b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer.*git lfs pull"),
        ("unet/config.json", None, r"lacks the file '.*config\.json'"),
        ("unet/config.json", b"{", r"'.*config\.json' is not valid JSON"),
        ("vae/config.json", b"[]", "holds a list, but a JSON object is needed"),
        ("scheduler/scheduler_config.json", None, r"lacks the file '.*scheduler_config\.json'"),
        ("tokenizer/tokenizer.json", None, r"lacks '.*tokenizer\.json' \(or vocab\.json"),
        ("sds3d.json", b'{"image_size": "64"}', "image_size = '64', but int is needed"),
        ("sds3d.json", b'{"nouns": "mug"}', "nouns = 'mug', but list is needed"),
        ("sds3d.json", b'{"camera_condition": "fourrier"}', "unknown: allowed is 'fourier'"),
        ("sds3d.json", b"\xff\xfe", "is not valid JSON"),
    ],
)
def test_broken_files_are_named(broken_copy, name: str, content: bytes | None, message: str) -> None:
    folder = broken_copy(name, content)
    with pytest.raises(AssetError, match=message) as caught:
        check_folder(folder)
    assert Path(name).name.split(".")[0] in str(caught.value)


def test_truncated_weights_are_found(broken_copy, tiny_folder: Path) -> None:
    whole = (tiny_folder / UNET).read_bytes()
    check_safetensors(tiny_folder / UNET)
    with pytest.raises(AssetError, match=f"has {len(whole) - 1} bytes where its header announces {len(whole)}"):
        check_folder(broken_copy(UNET, whole[:-1]))


def test_missing_folder_file_and_pickled_weights(broken_copy, tmp_path: Path, tiny_folder: Path) -> None:
    with pytest.raises(AssetError, match=r"The prior '.*nowhere' does not exist\. Give prior\.path"):
        check_folder(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(AssetError, match="is not a folder"):
        check_folder(tmp_path / "file")
    folder = broken_copy(UNET, None)
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(AssetError, match="pickled weights are never loaded"):
        check_folder(folder)


def test_sharded_weights_are_checked_shard_by_shard(broken_copy) -> None:
    folder = broken_copy(UNET, None)
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    (folder / "unet" / "one.safetensors").write_bytes(safetensors_bytes({"a": {"data_offsets": [0, 4]}}, b"1234"))
    with pytest.raises(AssetError, match=r"lacks the weight file '.*two\.safetensors', which .*index\.json lists"):
        check_folder(folder)
    (folder / "unet" / "two.safetensors").write_bytes(safetensors_bytes({}, b""))
    assert [f.name for f in check_folder(folder).weights["unet"]] == ["one.safetensors", "two.safetensors"]


def test_metadata_without_vocabulary_knows_every_word() -> None:
    assert PriorMetadata().unknown_words("a zebra") == ()
    assert PriorMetadata(nouns=("fire truck",)).unknown_words("fire truck") == ()


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_sharded_half_precision_weights_are_found_and_loaded(part: str, sdxl_folder: Path, tmp_path: Path) -> None:
    """As large models are published: `model.fp16-00001-of-00003.safetensors` beside an index."""
    import torch
    from diffusers import UNet2DConditionModel
    from safetensors.torch import load_file
    from transformers import CLIPTextModel

    from sds3d.priors.loading import load_network

    kind = {"unet": UNet2DConditionModel, "text_encoder": CLIPTextModel}[part]
    folder = shutil.copytree(sdxl_folder, tmp_path / "p")
    (whole,) = (folder / part).glob("*.safetensors")
    expected = load_file(whole)
    network = kind.from_pretrained(folder / part)
    whole.unlink()
    network.half().save_pretrained(folder / part, variant="fp16", max_shard_size=whole_size(expected) // 4)
    checked = check_folder(folder)
    assert checked.variants[part] == "fp16" and len(checked.weights[part]) > 1
    loaded = load_network(kind, folder / part, torch.float32, "fp16")
    for name, value in loaded.state_dict().items():
        key = name if name in expected else f"text_model.{name}"
        torch.testing.assert_close(value, expected[key].half().float())
    checked.weights[part][0].unlink()
    with pytest.raises(AssetError, match=r"lacks the weight file .*fp16-00001-of-.*safetensors', which .*index"):
        check_folder(folder)


def whole_size(tensors: dict[str, Any]) -> int:
    return sum(value.numel() * 2 for value in tensors.values())
