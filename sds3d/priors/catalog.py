"""The models sds3d knows by name: where they are, under which licence, how large, and what stands in when one is gone.

Models vanish from the hub (the Stable Diffusion 2 family did), so every entry names copies and drop-in replacements.
The data is in `catalog_data.yaml`. Imports no torch.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from sds3d.errors import AssetError

Family = Literal[
    "latent_diffusion",
    "pixel_cascade",
    "multi_view",
    "zero123",
    "flow",
    "video",
    "controlnet",
    "motion_adapter",
    "toy_clips",
    "autoencoder",
]
FAMILIES: tuple[Family, ...] = get_args(Family)
PARTS_OF_PRIORS = ("controlnet", "motion_adapter", "autoencoder")
"""Families that are no prior by themselves but join one."""

_DATA = Path(__file__).with_name("catalog_data.yaml")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model.

    Args:
        name: what recipes and `fetch` call it.
        title: one line.
        family: which class of `sds3d.priors` runs it.
        licence: of the weights; SPDX where there is an identifier.
        parameters_m: millions of parameters of each network.
        size_gb: download of the half-precision safetensors files, gigabytes of 1e9 bytes.
        resolution: side of its pictures in pixels (the shorter one for films).
        gives: which branches and conditions it can answer: text, empty (a prediction without the prompt), camera,
            image, depth, normal, light, frames.
        hub: id on the Hugging Face hub; "" for what is bundled.
        revision: branch, tag or commit there.
        mirrors: further ids with the same weights, tried in order.
        formerly: ids under which it was known and which no longer work, or hold no safetensors.
        gated: whether its licence must be accepted on the hub first.
        replacements: entries that can stand in, the nearest first.
        companions: entries that are fetched along.
        bundled: whether it ships with the program.
        note: what else a user should know.
        unverified: which of these keys nobody could look up.
    """

    name: str
    title: str
    family: Family
    licence: str
    parameters_m: Mapping[str, float] = field(hash=False)
    size_gb: float
    resolution: int
    gives: tuple[str, ...]
    hub: str = ""
    revision: str = "main"
    mirrors: tuple[str, ...] = ()
    formerly: tuple[str, ...] = ()
    gated: bool = False
    replacements: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()
    bundled: bool = False
    note: str = ""
    unverified: tuple[str, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """Hub ids that have the weights today, the preferred one first."""
        return (self.hub, *self.mirrors) if self.hub else ()

    @property
    def page(self) -> str:
        """Address of its page, where a licence is accepted."""
        return f"https://huggingface.co/{self.hub}"

    @property
    def total_parameters(self) -> float:
        """Parameters of all networks together."""
        return 1e6 * sum(self.parameters_m.values())


@functools.cache
def catalog() -> Mapping[str, Entry]:
    """Return all entries by name, in the order of the file."""
    import yaml

    rows = yaml.safe_load(_DATA.read_text(encoding="utf-8"))
    return MappingProxyType({str(name): _entry(str(name), row) for name, row in rows.items()})


def find_entry(name: str) -> Entry | None:
    """Return the entry called `name`, or known on the hub by that id, now or formerly; None if there is none."""
    entries = catalog()
    if name in entries:
        return entries[name]
    wanted = name.lower()
    for entry in entries.values():
        if wanted in (known.lower() for known in (*entry.sources, *entry.formerly)):
            return entry
    return None


def get_entry(name: str) -> Entry:
    """Return the entry called `name`. Raises: AssetError that suggests the nearest names."""
    entry = find_entry(name)
    if entry is None:
        near = suggest(name)
        hint = f"Did you mean {near}? All" if near else "All"
        raise AssetError(f"There is no model '{name}' in the catalog. {hint} names: 'python launch.py fetch --list'.")
    return entry


def suggest(name: str) -> str:
    """Return the quoted names of entries near to `name`, a name, hub id or path; "" if none is near."""
    last = Path(name).name.lower()
    known = {word.rsplit("/", 1)[-1].lower(): entry.name for word, entry in _all_names().items()}
    if last in known:
        return f"'{known[last]}'"
    near = difflib.get_close_matches(last, catalog(), n=3, cutoff=0.5)
    return " or ".join(f"'{word}'" for word in near)


def _all_names() -> dict[str, Entry]:
    return {
        word: entry
        for entry in catalog().values()
        for word in (*entry.formerly[::-1], *entry.sources[::-1], entry.name)
    }


def _entry(name: str, row: dict[str, Any]) -> Entry:
    """Return a row of the file as an entry; lists become tuples. A misspelt key is a TypeError: the file is ours."""
    kinds = {item.name: item.type for item in fields(Entry)}
    values: dict[str, Any] = {
        key: tuple(value) if str(kinds.get(key, "")).startswith("tuple") else value for key, value in row.items()
    }
    values["parameters_m"] = MappingProxyType({part: float(number) for part, number in row["parameters_m"].items()})
    return Entry(name=name, **values)
