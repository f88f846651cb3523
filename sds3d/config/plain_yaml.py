"""YAML without its traps: read and write plain data only.

YAML 1.1, which PyYAML implements, reads `no` as false, `1e-3` as text and `12:30` as 750. Recipes are read with the
rules of YAML 1.2 instead. Only mappings, lists, text, numbers, truth values and null exist; no tag makes an object.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from sds3d.errors import ConfigError

_RESOLVERS = {
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", "~nN\0"),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9]+", "-+0123456789"),
    "tag:yaml.org,2002:float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
}


class _Loader(yaml.SafeLoader):
    """Safe loading, YAML 1.2 scalars, no repeated keys."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' occurs twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back unchanged; short lists on one line."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_list(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    nested = any(isinstance(item, dict) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=not nested)


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(node.value)  # PyYAML would read 010 as octal 8


for _tag, (_pattern, _first) in _RESOLVERS.items():
    for _kind in (_Loader, _Dumper):
        _starts = ["" if letter == "\0" else letter for letter in _first]
        _kind.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), _starts)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Dumper.add_representer(list, _represent_list)


def parse(text: str, source: str) -> Any:
    """Return the data `text` holds. Raises: ConfigError naming `source` and the line if it is not plain YAML."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
        raise ConfigError(
            f"{source} is not valid YAML: {where}{' '.join(str(problem).split())}. Correct it."
        ) from error
    except (RecursionError, ValueError) as error:
        raise ConfigError(
            f"{source} is not valid YAML: {type(error).__name__} while reading it. Correct it."
        ) from error


def read(file: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file (an empty file is an empty mapping). Raises: ConfigError naming the file."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"The file '{file}' cannot be read: {reason}. Give a readable YAML file.") from error
    data = parse(text, f"'{file}'")
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"'{file}' holds a {type(data).__name__}, but 'key: value' lines are needed. Correct it.")
    return data


def write(data: Any) -> str:
    """Return plain data as YAML text, keys in the order given, that `parse` reads back unchanged."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def line(value: Any) -> str:
    """Return plain data as one line of YAML that may stand behind "key="."""
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # JSON is YAML
    text = yaml.dump([value], Dumper=_Dumper, allow_unicode=True, width=10**9)  # "[text]", quoted if it must be
    return str(text).strip()[1:-1]
