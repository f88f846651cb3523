"""From what a recipe says (a name, a folder, a file) to checked files on disk, within a blink. Imports no torch.

Everything that can be wrong with a model is found here: missing, gated and not fetched, incomplete, cut short, pickled,
of a foreign kind. Nothing is downloaded; `sds3d.priors.fetch` does that.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sds3d.config.shipped import shipped
from sds3d.errors import AssetError, ConfigError
from sds3d.priors.assemble import assembled
from sds3d.priors.catalog import PARTS_OF_PRIORS, Entry, Family, find_entry, suggest
from sds3d.priors.folder import PriorFolder, base_of, check_folder
from sds3d.priors.places import PROGRAM, here, missing, place_of, snapshot
from sds3d.priors.single_file import PICKLES, check_file

if TYPE_CHECKING:
    from sds3d.config import PriorConfig

CHECKSUMS = "SHA256SUMS"
"""Optional file of a prior folder with the output of `sha256sum`."""
SOURCE_FILE = "source.json"
"""Written by `fetch --to` beside the weights: name, hub id, revision and licence."""

PIPELINES: dict[str, Family] = {
    "StableDiffusionPipeline": "latent_diffusion",
    "StableDiffusionXLPipeline": "latent_diffusion",
    "StableDiffusionControlNetPipeline": "latent_diffusion",
    "LatentConsistencyModelPipeline": "latent_diffusion",
    "IFPipeline": "pixel_cascade",
    "MVDreamPipeline": "multi_view",
    "MVDreamStableDiffusionPipeline": "multi_view",
    "Zero123Pipeline": "zero123",
    "Zero1to3StableDiffusionPipeline": "zero123",
    "StableDiffusion3Pipeline": "flow",
    "FluxPipeline": "flow",
    "TextToVideoSDPipeline": "video",
    "AnimateDiffPipeline": "video",
    "StableVideoDiffusionPipeline": "video",
    "WanPipeline": "video",
    "CogVideoXPipeline": "video",
    "LTXPipeline": "video",
    "ToyClipPipeline": "toy_clips",
    "StackedFramesPipeline": "video",
}
"""Pipeline class, as model_index.json names it -> family; all but the toy clips and stacked frames are diffusers'."""

NETWORKS: dict[str, Family] = {
    "ControlNetModel": "controlnet",
    "MotionAdapter": "motion_adapter",
    "AutoencoderKL": "autoencoder",
    "AutoencoderTiny": "autoencoder",
}
"""Class of a folder that holds a single network -> family."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model on disk, checked.

    Args:
        name: as the user called it.
        path: folder, or single file.
        family: which class runs it.
        licence: of the weights, or "not stated".
        revision: commit of the hub, or digest of the folder's SHA256SUMS; "" if there is neither.
        entry: the catalog's entry, or None.
        folder: parts of a pipeline folder; None for a single file or network.
        base: catalog name of the model a single file takes configuration and tokenizer from; "" for folders.
        others: models that join it: ControlNets, and the base of a single file or motion adapter.
    """

    name: str
    path: Path
    family: Family
    licence: str
    revision: str
    entry: Entry | None = None
    folder: PriorFolder | None = None
    base: str = ""
    others: tuple[Source, ...] = ()

    @property
    def main(self) -> Path:
        """What is opened: a motion adapter's base, else the model itself."""
        return self.others[-1].path if self.family == "motion_adapter" else self.path

    def record(self) -> dict[str, str]:
        """Return what run.json keeps: name, where it came from, revision, licence."""
        hub = self.entry.hub if self.entry is not None and not self.entry.bundled else ""
        said = {"name": self.name, "hub": hub, "revision": self.revision, "licence": self.licence}
        return {key: value for key, value in said.items() if value}


def check_prior(config: PriorConfig, needed_by: str = "") -> Source:
    """Return the checked model of a recipe, with all that joins it.

    Raises: AssetError for what is missing or broken; ConfigError for parts that do not go together.
    """
    source = locate(config.path, needed_by)
    if source.family in ("controlnet", "autoencoder"):
        key = "prior.controlnets=[...]" if source.family == "controlnet" else "a folder with a whole pipeline"
        raise ConfigError(
            f"prior.path '{config.path}' is a {source.family}, which is no prior by itself. Give it as {key}.",
            path="prior.path",
        )
    if config.kind not in ("auto", source.family):
        raise ConfigError(
            f"prior.kind is '{config.kind}', but '{config.path}' is a model of family '{source.family}'. Set "
            "prior.kind=auto.",
            path="prior.kind",
        )
    if config.controlnets and source.family != "latent_diffusion":
        raise ConfigError(
            f"prior.controlnets are given, but '{config.path}' ({source.family}) takes none. Use a Stable Diffusion.",
            path="prior.controlnets",
        )
    base = config.base or source.base or (_base_of_adapter(source) if source.family == "motion_adapter" else "")
    others = [locate(name) for name in (*config.controlnets, *([base] if base else []))]
    for name, other in zip(config.controlnets, others, strict=False):
        if other.family != "controlnet":
            raise ConfigError(
                f"prior.controlnets holds '{name}', which is a model of family '{other.family}'. Give ControlNets.",
                path="prior.controlnets",
            )
    _check_image(config.image, source)
    source = replace(source, others=tuple(others))
    return _with_autoencoder(source, locate(config.vae)) if config.vae else source


def _base_of_adapter(source: Source) -> str:
    """Return the name of the model a motion adapter was trained with: Stable Diffusion 1.5 unless its folder says."""
    return base_of(source.path) or "sd15"


def _with_autoencoder(source: Source, autoencoder: Source) -> Source:
    """Return the model with another autoencoder. Raises: ConfigError if that is none, or the model has none."""
    if autoencoder.family != "autoencoder" or source.folder is None or "vae" not in source.folder.configs:
        raise ConfigError(
            f"prior.vae '{autoencoder.name}' ({autoencoder.family}) cannot take the place of the autoencoder of "
            f"'{source.name}' ({source.family}). Give a diffusers autoencoder and a latent diffusion folder.",
            path="prior.vae",
        )
    kind = json.loads((autoencoder.path / "config.json").read_text(encoding="utf-8"))["_class_name"]
    path = assembled(source.path, {"vae": (autoencoder.path, kind)})
    return replace(source, path=path, folder=check_folder(path), others=(autoencoder, *source.others))


def _check_image(image: str, source: Source) -> None:
    if source.family == "zero123" and not image:
        raise ConfigError(
            f"The model '{source.name}' shows other views of a picture, but prior.image is empty. Give prior.image=FILE, "
            "a picture of the object on a plain or transparent background.",
            path="prior.image",
        )
    if image and not Path(image).expanduser().is_file():
        raise AssetError(f"The reference picture prior.image='{image}' does not exist. Give an existing file.", image)


def locate(name: str | Path, needed_by: str = "") -> Source:
    """Return the checked model called `name`: a name of the catalog, a hub id, a folder or a .safetensors file.

    Args:
        needed_by: begins the message about a missing model, e.g. "The recipe 'csd' needs Stable Diffusion".
    Raises: AssetError in one sentence with what to do.
    """
    text = str(name)
    entry = find_entry(text)
    path = Path(text).expanduser()
    if entry is not None and not ("/" in text and path.exists()):
        return _checked(text, _place(entry, needed_by), entry)
    if path.exists():
        return _checked(text, path, _entry_of(path))
    cached = snapshot(text) if re.fullmatch(r"[\w.-]+/[\w.-]+", text) else None
    if cached is not None:
        return _checked(text, cached, None)
    known = " or ".join(f"'{entry}'" for entry in here()) or "none yet"
    near = suggest(text)
    raise AssetError(
        f"{f'{needed_by}, but the' if needed_by else 'The'} prior '{text}' does not exist. Give prior.path a folder, a "
        f".safetensors file or a name of the catalog (on this machine: {known}{f'; did you mean {near}?' if near else ''}; "
        f"all: '{PROGRAM} fetch --list'){', or try the recipe with the bundled prior: --tiny' if needed_by else ''}.",
        path,
    )


def _place(entry: Entry, needed_by: str) -> Path:
    found = place_of(entry)
    if found is None:
        raise missing(entry, needed_by)
    return found


def _checked(name: str, path: Path, entry: Entry | None) -> Source:
    """Return the source of an existing folder or file. Raises: AssetError if it is broken or of a foreign kind."""
    said = _read_source(path)
    licence = str(said.get("licence") or (entry.licence if entry is not None else ""))
    revision = str(said.get("revision") or _commit(path))
    if path.is_file():
        family, base = check_file(path)
        licence = licence or "not stated"
        return Source(name=name, path=path, family=family, licence=licence, revision=revision, entry=entry, base=base)
    try:
        family = family_of(path)
        folder = None if family in (*PARTS_OF_PRIORS, "toy_clips") else check_folder(path)
    except AssetError as error:
        if entry is None or entry.bundled:
            raise
        raise AssetError(
            f"The model '{entry.name}' on this machine is not complete: {error} Run '{PROGRAM} fetch {entry.name}' "
            "to get the rest.",
            error.path,
        ) from error
    licence = (folder.metadata.licence if folder is not None else None) or licence or "not stated"
    return Source(name=name, path=path, family=family, licence=licence, revision=revision, entry=entry, folder=folder)


def family_of(folder: Path) -> Family:
    """Return the family of the model in `folder`, from model_index.json or config.json.

    Raises: AssetError for a pipeline of a kind nobody here runs, and for a folder that holds no model.
    """
    index, single = folder / "model_index.json", folder / "config.json"
    file = index if index.is_file() else single
    known, what = (PIPELINES, "pipeline") if file is index else (NETWORKS, "network")
    if not file.is_file():
        if (folder / "unet").is_dir():
            return "latent_diffusion"  # folders put together by hand have no index
        raise AssetError(_no_model(folder), folder)
    try:
        name = json.loads(file.read_text(encoding="utf-8")).get("_class_name")
    except (ValueError, AttributeError) as error:
        raise AssetError(f"'{file}' is not valid JSON ({error}). Restore the file from its source.", file) from error
    if isinstance(name, list):  # custom code: ["file", "class"]
        name = name[-1]
    if name in known:
        return known[name]
    if (folder / "unet").is_dir() and name is None:
        return "latent_diffusion"
    raise AssetError(
        f"The prior '{folder}' is a {what} of class {name}, which no prior of sds3d runs. Allowed is "
        f"{', '.join(known)}. Use another model.",
        folder,
    )


def _no_model(folder: Path) -> str:
    inside = sorted(folder.glob("*.safetensors"))
    pickled = sorted(file for file in folder.iterdir() if file.suffix in PICKLES)
    nested = next((file.parent for file in sorted(folder.glob("*/model_index.json"))), None)
    if nested is not None:
        hint = f"But '{nested}' does: give that folder."
    elif inside:
        hint = f"To load the single file, give its path: '{inside[0]}'."
    elif pickled:
        hint = f"There is '{pickled[0].name}', but pickled weights are never loaded. Give a model in safetensors."
    else:
        hint = f"Give a diffusers pipeline folder, or a name of the catalog: '{PROGRAM} fetch --list'."
    return f"The folder '{folder}' holds no model: it lacks the file 'model_index.json'. {hint}"


def _entry_of(path: Path) -> Entry | None:
    """Return the catalog's entry of a folder inside the hub's cache or written by `fetch --to`, else None."""
    for name in ("toybox", "toybox-clips", "toybox-motion", "toybox-light"):
        if path.resolve() == shipped("assets", "priors", name).resolve():
            return find_entry(name)
    found = re.search(r"models--([^/\\]+)", str(path))
    hub = found.group(1).replace("--", "/", 1) if found else str(_read_source(path).get("hub", ""))
    return find_entry(hub) if hub else None


def _commit(path: Path) -> str:
    """Return the commit of a folder in the hub's cache, a digest of a folder's list of checksums, or ""."""
    found = re.search(r"snapshots[/\\]([^/\\]+)", str(path))
    if found:
        return found.group(1)
    sums = path / CHECKSUMS
    return f"sums-{hashlib.sha256(sums.read_bytes()).hexdigest()[:12]}" if sums.is_file() else ""


def _read_source(path: Path) -> dict[str, Any]:
    file = path / SOURCE_FILE if path.is_dir() else path.with_suffix(".json")
    try:
        said = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
