"""From the lines of the file to jobs: a resolved recipe each, known by the hash of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from sds3d.config import DEFAULT_RECIPE, Recipe, load_recipe
from sds3d.config.load import capped
from sds3d.errors import Sds3dError
from sds3d.preflight import check
from sds3d.run import slug
from systems.batching.prompt_file import BadLine, Line, PromptLine

_NAME_BYTES = 80
_KEY_LETTERS = 10


@dataclass(frozen=True, kw_only=True)
class Job:
    """One asset to make.

    Args:
        key: SHA-256 of the resolved recipe, prompt and seed included; equal keys are equal assets.
        recipe: the resolved recipe.
        lines: numbers of the lines that asked for it.
    """

    key: str
    recipe: Recipe
    lines: tuple[int, ...]

    @property
    def prompt(self) -> str:
        """The prompt as one line."""
        return " ".join(self.recipe.prompt.text.split())

    @property
    def name(self) -> str:
        """The name of its run folder: the prompt, made harmless, and the beginning of the key."""
        words = slug(self.recipe.prompt.text).encode()[:_NAME_BYTES].decode(errors="ignore").rstrip("-")
        return f"{words}-{self.key[:_KEY_LETTERS]}"


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A line no asset can be made of, and why."""

    line: int
    text: str
    problem: str

    @property
    def key(self) -> str:
        """What the index knows it by."""
        return hashlib.sha256(f"{self.line}\0{self.text}".encode("utf-8", "replace")).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What holds for all prompts of a batch; arguments as of the verb `generate`."""

    recipe: str = DEFAULT_RECIPE
    overlays: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    seed: int | None = None
    device: str | None = None
    max_steps: int | None = None
    checks_device: bool = field(default=True)
    """False where workers run on other machines, whose cards are not ours to judge."""

    def resolve(self, lines: Iterable[Line]) -> tuple[list[Job], list[Refused]]:
        """Return the jobs in the order of the lines, equal ones joined, and the lines that cannot be carried out.

        Raises: ConfigError, AssetError, BackendError if the recipe itself cannot be used, whatever the prompt.
        """
        self._resolve(PromptLine(line=0, text="anything"))
        jobs: dict[str, Job] = {}
        refused: list[Refused] = []
        for line in lines:
            try:
                recipe = self._resolve(line)
            except Sds3dError as error:
                refused.append(Refused(line=line.line, text=line.text, problem=f"Line {line.line}: {error}"))
                continue
            key = content_key(recipe)
            before = jobs[key].lines if key in jobs else ()
            jobs[key] = Job(key=key, recipe=recipe, lines=(*before, line.line))
        return list(jobs.values()), refused

    def _resolve(self, line: Line) -> Recipe:
        if isinstance(line, BadLine):
            raise Sds3dError(f"{line.problem}. Given: '{line.text[:60]}'. Correct the line.")
        seed = self.seed if line.seed is None else line.seed
        given = {
            "prompt.text": ("the prompt", line.text),
            "seed": ("the seed", seed),
            "device": ("--device", self.device),
        }
        options = {key: value for key, value in given.items() if value[1] is not None}
        overrides = [*self.overrides, *line.overrides]
        recipe = capped(load_recipe(self.recipe, self.overlays, overrides, options), self.max_steps)
        check(recipe, checks_device=self.checks_device)
        return recipe


def content_key(recipe: Recipe) -> str:
    """Return the SHA-256 of the resolved recipe, 64 letters."""
    return hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()
