"""Download of models: the safetensors files a prior needs and nothing else, with progress, resumed where it stopped.

Files go into the cache that all programs of the Hugging Face hub share, so nothing is downloaded twice; HF_HOME,
HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE mean what they mean there. Imports no torch.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sds3d.errors import AssetError
from sds3d.export.atomic import write_bytes
from sds3d.priors.catalog import Entry, find_entry, get_entry
from sds3d.priors.places import PROGRAM, hub_cache
from sds3d.priors.source import SOURCE_FILE, Source, locate

CONNECT_SECONDS = 1.5
"""How long the hub may take to answer at all."""

_WEIGHTS = re.compile(
    r"(?:(?P<part>[^/]+)/)?(?P<stem>model|diffusion_pytorch_model)(?:\.(?P<variant>fp16|bf16))?"
    r"(?:-\d+-of-\d+)?\.safetensors"
)
_SHARD_LISTS = re.compile(
    r"(?:(?P<part>[^/]+)/)?(?:model|diffusion_pytorch_model)\.safetensors\.index(?:\.(?P<variant>fp16|bf16))?\.json"
)
_SMALL = re.compile(r"(?:[^/]+/)?[^/]+\.(?:json|txt|model)|(?:LICENSE|README)[^/]*", re.IGNORECASE)
_NOT_NEEDED = ("safety_checker", "safety_concept")
_PICKLED = (".bin", ".ckpt", ".pt", ".pth")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What would be downloaded: `files` of the hub's model `hub` at the commit `revision`, name -> bytes."""

    hub: str
    revision: str
    licence: str
    files: Mapping[str, int]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())


def fetch(name: str, to: Path | None = None, full: bool = False, companions: bool = True) -> list[Source]:
    """Download a model, with what belongs to it, and return what is on the disk then, checked.

    Args:
        name: of the catalog, or a hub id.
        to: a folder for plain files instead of the shared cache; what is there already is not downloaded again.
        full: take full-precision weights where there are half-precision ones (twice the size).
        companions: fetch the entry's companions too.
    Raises: AssetError for an unknown, withdrawn or gated model, a full disk, no network, files that arrived broken.
    """
    entry = find_entry(name)
    if entry is None and not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        entry = get_entry(name)  # raises, with the names nearest to it
    if entry is not None and entry.bundled:
        return [locate(entry.name)]
    _check_network(entry.name if entry else name)
    plan = _plan(entry, name, full)
    folder = _download(plan, entry, to)
    if to is not None:
        said = {
            "name": entry.name if entry else name,
            "hub": plan.hub,
            "revision": plan.revision,
            "licence": plan.licence,
        }
        write_bytes(folder / SOURCE_FILE, (json.dumps(said, indent=2) + "\n").encode())
    found = [locate(folder)]
    for companion in entry.companions if entry is not None and companions and to is None else ():
        found += fetch(companion)
    return found


def chosen(files: Mapping[str, int], full: bool = False) -> dict[str, int]:
    """Return the files of a repository that a prior needs: configurations, tokenizers, one set of weights a part.

    Args:
        files: name -> bytes of all files; names as in the repository, "unet/config.json".
        full: prefer full precision to half.
    """
    weights = [match for name in files if (match := _WEIGHTS.fullmatch(name))]
    variants: dict[str | None, str | None] = {}
    for part in {match["part"] for match in weights}:
        there = {match["variant"] for match in weights if match["part"] == part}
        order: tuple[str | None, ...] = (None, "bf16", "fp16") if full else ("fp16", "bf16", None)
        variants[part] = next(variant for variant in order if variant in there)
    picked = {}
    for name, size in files.items():
        match = _WEIGHTS.fullmatch(name) or _SHARD_LISTS.fullmatch(name)
        is_wanted = variants.get(match["part"], "") == match["variant"] if match else bool(_SMALL.fullmatch(name))
        if is_wanted and not name.startswith(_NOT_NEEDED):
            picked[name] = size
    return picked


def is_offline() -> bool:
    """Return whether the user forbade downloads (HF_HUB_OFFLINE)."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in {"1", "ON", "YES", "TRUE"}


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _check_network(name: str) -> None:
    """Raise AssetError if downloads are forbidden, or the hub does not answer within `CONNECT_SECONDS`."""
    advice = f"Copy a diffusers folder here and give prior.path=FOLDER, or run '{PROGRAM} fetch {name}' "
    if is_offline():
        raise AssetError(
            f"'{name}' is to be fetched, but HF_HUB_OFFLINE forbids downloads. Unset it, or give prior.path a folder."
        )
    endpoint = _endpoint()
    address = urlsplit(endpoint)
    if any(os.environ.get(key) or os.environ.get(key.lower()) for key in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")):
        return  # whom the proxy reaches only the request itself can tell
    try:
        port = address.port or (443 if address.scheme == "https" else 80)
        socket.create_connection((address.hostname or "", port), CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise AssetError(
            f"There is no network to fetch '{name}': {endpoint} does not answer ({error}). {advice}where there is one "
            "(HF_ENDPOINT chooses another hub)."
        ) from error


def _plan(entry: Entry | None, name: str, full: bool) -> Plan:
    """Return what to download from the first source that has it. Raises: AssetError if none has."""
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "0"  # elsewhere they would tear a live display; here they are the news
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    gone = []
    for hub in entry.sources if entry is not None else (name,):
        revision = entry.revision if entry is not None and hub == entry.hub else "main"
        try:
            info: Any = HfApi(endpoint=_endpoint()).model_info(hub, revision=revision, files_metadata=True, timeout=20)
            if info.gated:
                HfApi(endpoint=_endpoint()).auth_check(hub)
        except GatedRepoError as error:
            raise _gated(hub, entry) from error
        except (RepositoryNotFoundError, RevisionNotFoundError):
            gone.append(hub)
            continue
        except (HfHubHTTPError, OSError) as error:
            raise _interrupted(hub, error) from error
        sizes = {item.rfilename: int(item.size or 0) for item in info.siblings}
        files = chosen(sizes, full)
        if not any(_WEIGHTS.fullmatch(file) for file in files):
            raise _no_weights(hub, sizes)
        stated = getattr(info.card_data, "license", None) if info.card_data else None
        licence = entry.licence if entry is not None else str(stated or "not stated")
        return Plan(hub=hub, revision=info.sha, licence=licence, files=files)
    instead = f"Use a drop-in replacement: {' or '.join(entry.replacements)}" if entry and entry.replacements else ""
    raise AssetError(
        f"The model '{name}' is on the hub no more (or is private): {', '.join(gone)} cannot be found. "
        f"{instead or 'Check the id'}; or give prior.path a folder you have it in."
    )


def _download(plan: Plan, entry: Entry | None, to: Path | None) -> Path:
    """Return the folder with all files of the plan. Raises: AssetError if the disk is full or the network breaks."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    place = to or hub_cache()
    _check_disk(place, plan)
    where: dict[str, Any] = {"local_dir": to} if to is not None else {"cache_dir": place}
    # Glob characters in a name would be read as a pattern.
    names = [re.sub(r"([*?\[])", r"[\1]", name) for name in plan.files]
    try:
        folder = Path(
            snapshot_download(plan.hub, revision=plan.revision, allow_patterns=names, endpoint=_endpoint(), **where)
        )
    except GatedRepoError as error:
        raise _gated(plan.hub, entry) from error
    except (HfHubHTTPError, OSError, RuntimeError) as error:
        raise _interrupted(plan.hub, error) from error
    if to is None and entry is not None:
        _remember(plan, entry)
    return folder


def _remember(plan: Plan, entry: Entry) -> None:
    """Note the commit under the revision's name, as downloads by name do, so that it is found without a network."""
    revision = entry.revision if plan.hub == entry.hub else "main"
    reference = hub_cache() / f"models--{plan.hub.replace('/', '--')}" / "refs" / revision
    write_bytes(reference, plan.revision.encode())


def _check_disk(place: Path, plan: Plan) -> None:
    existing = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    done = _bytes_in(place if place.name != "hub" else place / f"models--{plan.hub.replace('/', '--')}" / "blobs")
    if plan.size - done > free:
        raise AssetError(
            f"'{plan.hub}' needs {plan.size / 1e9:.1f} GB, but '{existing}' has {free / 1e9:.1f} GB free. Make room, or "
            "choose another disk: set HF_HOME, or give --to.",
            existing,
        )


def _bytes_in(folder: Path) -> int:
    files: Iterable[Path] = folder.rglob("*") if folder.is_dir() else ()
    return sum(file.stat().st_size for file in files if file.is_file())


def _gated(hub: str, entry: Entry | None) -> AssetError:
    free = [name for name in entry.replacements if not get_entry(name).gated] if entry is not None else []
    instead = f" Without an account: {PROGRAM} fetch {free[0]}." if free else ""
    return AssetError(
        f"The model '{hub}' is gated: accept its licence at https://huggingface.co/{hub}, then log in with 'hf auth "
        f"login' (or set HF_TOKEN) and fetch again.{instead}"
    )


def _interrupted(hub: str, error: Exception) -> AssetError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return AssetError(f"The download of '{hub}' broke off: {first} Run the same command again, it goes on from there.")


def _no_weights(hub: str, files: Iterable[str]) -> AssetError:
    pickled = next((name for name in sorted(files) if name.endswith(_PICKLED)), None)
    found = f"only pickled ones such as '{pickled}', which are never loaded" if pickled else "no weights at all"
    return AssetError(f"'{hub}' has no safetensors weights in diffusers layout, but {found}. Choose another model.")
