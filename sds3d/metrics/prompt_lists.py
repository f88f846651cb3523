"""The prompt lists that ship with the program (assets/prompts, which also says where each is from)."""

from __future__ import annotations

from pathlib import Path

from sds3d.config.shipped import shipped
from sds3d.errors import AssetError, ConfigError, nearest

LONGEST = 2000
"""Characters of a prompt, as recipes allow them."""


def prompt_list_files() -> dict[str, Path]:
    """Return the shipped lists: name -> file."""
    return {file.stem: file for file in sorted(shipped("assets", "prompts").glob("*.txt"))}


def prompt_list(name: str) -> tuple[str, ...]:
    """Return the prompts of a shipped list ("dreamfusion415", "toybox264") or of a text file with one a line.

    Empty lines are left out. Raises: ConfigError if there is neither; AssetError if a file cannot be read or is empty.
    """
    files = prompt_list_files()
    path = files.get(name) or Path(name).expanduser()
    if name not in files and not path.is_file():
        raise ConfigError(
            f"There is no list of prompts '{name}'. Give the name of a shipped one ({nearest(name, files)}) or a text file "
            "with one prompt a line."
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AssetError(f"'{path}' cannot be read as text: {error}. Save it as UTF-8.", path) from error
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise AssetError(f"'{path}' holds no prompt: one a line is needed.", path)
    for number, prompt in enumerate(prompts, 1):
        if len(prompt) > LONGEST:
            raise AssetError(
                f"Prompt {number} of '{path}' has {len(prompt)} characters, at most {LONGEST} are allowed: shorten it.",
                path,
            )
    return prompts
