"""What this machine can do: one row a back end, with the reason where it cannot and the command that would fix it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sds3d import hardware
from sds3d.config.shipped import shipped
from sds3d.errors import AssetError, Sds3dError
from sds3d.export.usdz import probe_usd
from sds3d.meshing.unwrap import probe_xatlas
from sds3d.priors.catalog import catalog
from sds3d.priors.folder import check_folder
from sds3d.priors.places import here, hub_cache
from sds3d.priors.source import CHECKSUMS

if TYPE_CHECKING:
    from sds3d.config import Recipe

_EXTRAS = (
    ("ray", "batch", "batch with several workers; without it they are plain processes of this machine"),
    ("viser", "view", "the page of view and generate --view"),
    ("tensorboard", "track", "training.loggers=[tensorboard]"),
    ("wandb", "track", "training.loggers=[wandb], kept offline"),
    ("OpenEXR", "exr", "lights in .exr files; .hdr needs nothing"),
)
"""Optional packages: name, the extra of this program that installs it, and what it is for."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One row: `state` ok, off (optional and absent) or broken (generation will fail), and what to do about it."""

    name: str
    state: Literal["ok", "off", "broken"]
    detail: str
    fix: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the row as plain data."""
        return asdict(self)


def checks(backends: Mapping[str, str] | None = None) -> list[Check]:
    """Return all rows.

    Args:
        backends: name -> "available" or "reason: fix", as the renderers report it. They are above this module, so
            the caller brings their answer.
    """
    rows = [_torch(), _cuda(), *(_optional(name, state) for name, state in (backends or {}).items())]
    rows += [_optional("textures by xatlas", probe_xatlas()), _optional("usdz", probe_usd())]
    rows += [_package("diffusers", "runs priors"), _package("av", "writes mp4")]
    rows += [_extra(*row) for row in _EXTRAS]
    rows += [_bundled("bundled prior", "priors", "toybox"), _models(), _judge(), _memory(), _disk(), _threads()]
    return rows


def recipe_checks(recipe: Recipe) -> list[Check]:
    """Return whether a recipe can run here: a row for each of its models, and rows of the memory it will need."""
    from sds3d.priors.footprint import predict_memory
    from sds3d.priors.source import check_prior

    cards = hardware.cuda_cards()[0] if hardware.torch_cuda_version() else []
    on_card = recipe.device == "cuda" or (recipe.device == "auto" and bool(cards))
    rows = []
    configs = [c for _, stage in recipe.plan() for c in (stage.prior, *(extra.prior for extra in stage.also))]
    for config in configs:
        try:
            source = check_prior(config)
        except Sds3dError as error:
            rows.append(Check(name=f"model {config.path}", state="broken", detail=str(error)))
            continue
        facts = f"{source.family}, licence {source.licence}, revision {source.revision or 'unknown'}"
        rows.append(Check(name=f"model {config.path}", state="ok", detail=facts))
    try:
        predicted = predict_memory(recipe, on_card)
    except AssetError:
        return rows  # the row above says it
    parts = "; ".join(
        f"{p.name}: {p.weights / 1e9:.1f} GB weights, {(p.peak - p.weights) / 1e9:.1f} more" for p in predicted.parts
    )
    total = hardware.memory_gb()
    rows.append(_fits("main memory", predicted.main_gb, total[1] if total else None, "" if on_card else parts))
    if on_card:
        rows.append(_fits("memory of the card", predicted.card_gb, card_memory_gb(), parts))
    return list({row.name: row for row in rows}.values())


def _fits(name: str, needed: float, there: float | None, parts: str) -> Check:
    """Return whether `needed` gigabytes fit into those that are there; a prediction is off by up to a factor of two."""
    detail = (
        f"about {needed:.1f} GB needed"
        + (f", {there:.1f} GB there" if there else "")
        + (f" ({parts})" if parts else "")
    )
    fix = "use --overlay lowmem or tiny, fewer views (cameras.views), prior.cpu_offload=true, or a smaller model"
    if there is None or needed <= 0.8 * there:
        return Check(name=name, state="ok", detail=detail)
    if needed <= there:
        return Check(name=name, state="off", detail=f"{detail}: tight", fix=fix)
    return Check(name=name, state="broken", detail=f"{detail}: it cannot fit", fix=fix)


def card_memory_gb() -> float | None:
    """Return the memory of the first CUDA card in gigabytes, as nvidia-smi tells it; None if that cannot be asked."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
        return float(answer.splitlines()[0]) / 1000 * 1.048576
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def _torch() -> Check:
    version = hardware.versions(("torch",)).get("torch")
    if version is None:
        return Check(name="torch", state="broken", detail="not installed", fix="pip install -e .")
    cuda = hardware.torch_cuda_version()
    return Check(name="torch", state="ok", detail=f"{version}, {f'CUDA {cuda}' if cuda else 'CPU build'}")


def _cuda() -> Check:
    cards, reason = hardware.cuda_cards()
    if not cards:
        fix = "not needed: everything also runs on the CPU"
        return Check(name="CUDA card", state="off", detail=reason, fix=fix)
    if hardware.torch_cuda_version() is None:
        fix = "install a CUDA build of torch: https://pytorch.org/get-started"
        return Check(name="CUDA card", state="off", detail=f"{', '.join(cards)}, but torch is a CPU build", fix=fix)
    return Check(name="CUDA card", state="ok", detail=", ".join(cards))


def _optional(name: str, state: str) -> Check:
    reason, _, fix = state.partition(": ")
    if state == "available":
        return Check(name=name, state="ok", detail="available")
    return Check(name=name, state="off", detail=reason, fix=fix)


def _package(name: str, purpose: str) -> Check:
    if importlib.util.find_spec(name) is None:
        return Check(name=name, state="broken", detail=f"not installed ({purpose})", fix=f"pip install {name}")
    return Check(name=name, state="ok", detail=f"{hardware.versions((name,)).get(name, 'installed')} ({purpose})")


def _extra(name: str, extra: str, purpose: str) -> Check:
    if importlib.util.find_spec(name) is None:
        return Check(
            name=name,
            state="off",
            detail=f"not installed ({purpose})",
            fix=f"pip install 'sds3d[{extra}]' (or: pip install {name})",
        )
    return Check(name=name, state="ok", detail=f"{hardware.versions((name,)).get(name, 'installed')} ({purpose})")


def _bundled(name: str, *parts: str) -> Check:
    folder = shipped("assets", *parts)
    fix = "restore the folder 'assets' (git checkout, git lfs pull), or give prior.path another diffusers folder"
    try:
        check_folder(folder)
        wrong = wrong_checksums(folder)
    except (AssetError, OSError) as error:
        return Check(name=name, state="broken", detail=str(error), fix=fix)
    if wrong:
        return Check(name=name, state="broken", detail=f"changed files: {', '.join(wrong)}", fix=fix)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    verified = "checksums verified" if (folder / CHECKSUMS).is_file() else "structure verified"
    return Check(name=name, state="ok", detail=f"{size:.0f} MB, {verified}, '{folder}'")


def _models() -> Check:
    names = [name for name in here() if not catalog()[name].bundled]
    if names:
        return Check(name="fetched models", state="ok", detail=f"{', '.join(names)} in '{hub_cache()}'")
    fix = "optional: 'fetch --list' shows what there is; a GPU is advised"
    return Check(name="fetched models", state="off", detail=f"none in '{hub_cache()}'", fix=fix)


def wrong_checksums(folder: Path) -> list[str]:
    """Return the files of `folder` that differ from its SHA256SUMS or are missing; [] if there is no such file."""
    sums = folder / CHECKSUMS
    if not sums.is_file():
        return []
    rows = [line.split(maxsplit=1) for line in sums.read_text(encoding="utf-8").splitlines() if line.strip()]
    wrong = []
    for digest, name in rows:
        file = folder / name.lstrip("*").strip()
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest.lower():
            wrong.append(name.lstrip("*").strip())
    return wrong


def _judge() -> Check:
    folder = shipped("assets", "judge")
    if not folder.is_dir() or not any(folder.iterdir()):
        return Check(
            name="judge",
            state="off",
            detail=f"'{folder}' is missing: no verdict in metrics.json",
            fix="restore 'assets'",
        )
    return Check(name="judge", state="ok", detail=f"'{folder}'")


def _memory() -> Check:
    memory = hardware.memory_gb()
    if memory is None:
        return Check(name="memory", state="ok", detail="unknown on this system")
    enough = memory[0] >= 4
    return Check(
        name="memory",
        state="ok" if enough else "off",
        detail=f"{memory[0]:.1f} of {memory[1]:.1f} GB free",
        fix="" if enough else "close other programs, or use --overlay lowmem",
    )


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    return Check(
        name="disk",
        state="ok" if free >= 1 else "off",
        detail=f"{free:.1f} GB free here",
        fix="" if free >= 1 else "a run needs about 0.1 GB: make room, or use --out on another disk",
    )


def _threads() -> Check:
    policy = os.environ.get("OMP_WAIT_POLICY", "unset")
    return Check(
        name="threads", state="ok", detail=f"{hardware.threads()} ({hardware.processor()}), OMP_WAIT_POLICY={policy}"
    )
