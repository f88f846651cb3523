"""The typed recipe: every key a YAML recipe may have, its meaning, its default and its bounds.

A recipe is plain data. Nothing here loads weights, creates folders or imports torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator

from sds3d.citations import CITATIONS
from sds3d.config.base import Config, increasing
from sds3d.config.export import ExportConfig, ExportFormat, check_formats, usual
from sds3d.config.gaussians import GaussiansConfig
from sds3d.config.motion import MotionConfig, check_movable
from sds3d.config.prior import PriorConfig
from sds3d.config.problems import KeyProblem
from sds3d.config.prompt import PromptConfig
from sds3d.config.renderers import AnyRenderer
from sds3d.config.stage_texts import texts_of
from sds3d.errors import nearest
from sds3d.guidance.methods import AnyGuidance, SdsConfig
from sds3d.schedule import Schedule, ScheduleLike, bounded

Elevation = Annotated[float, Field(ge=-89, le=89)]
Distance = Annotated[float, Field(ge=1.2, le=20)]
Rate = Annotated[ScheduleLike, bounded(0, 1)]
Weight = Annotated[ScheduleLike, bounded(0, 1e6)]
StageName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]


class AlsoConfig(Config):
    """A further prior with its own method, whose gradient is added."""

    weight: Weight = Field(default=Schedule.constant(1.0), description="factor on this gradient")
    prior: PriorConfig = Field(default_factory=PriorConfig, description="the further frozen model")
    guidance: AnyGuidance = Field(default_factory=SdsConfig, description="its distillation method")


class CamerasConfig(Config):
    """From where training looks. Azimuths are stratified over the full circle; the other two are uniform in a range."""

    views: int = Field(default=4, ge=1, le=64, description="images per training step")
    size: Annotated[ScheduleLike, bounded(8, 2048)] = Field(
        default=Schedule.constant(64), description="side of a training image, pixels; may grow on the way"
    )
    elevation_deg: Annotated[tuple[Elevation, Elevation], AfterValidator(increasing)] = Field(
        default=(-10.0, 45.0), description="[low, high] above the horizon, degrees"
    )
    distance: Annotated[tuple[Distance, Distance], AfterValidator(increasing)] = Field(
        default=(2.3, 2.7), description="[low, high] from the origin; the object fits in a sphere of radius 1"
    )
    fov_deg: float = Field(default=45.0, ge=5, le=120, description="vertical field of view, degrees")


class BackgroundConfig(Config):
    """What training images are composited on. A random colour keeps the object from hiding in the background."""

    random_fraction: float = Field(default=0.75, ge=0, le=1, description="share of steps with a random plain colour")
    grey: float = Field(default=0.5, ge=0, le=1, description="brightness of the grey of all other steps (sRGB)")


class OptimiserConfig(Config):
    """Adam, with one learning rate for each kind of parameter."""

    learning_rates: dict[str, Rate] = Field(
        default_factory=dict,
        description="learning rate of each kind of parameter of the renderer; one left out has its default",
    )
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=(0.9, 0.99), description="Adam's decay rates of the mean and of the squared gradient"
    )
    eps: float = Field(
        default=1e-15, gt=0, le=1, description="Adam's denominator offset; small, as gradients are small"
    )


class TrainingConfig(Config):
    """How long to train and what to save on the way."""

    steps: int = Field(default=400, ge=1, le=1_000_000, description="optimiser steps; --max-steps caps it")
    max_minutes: float | None = Field(
        default=None,
        gt=0,
        le=1_000_000,
        description="stop after so many minutes of training, whatever the step; null: never. Ends are then not repeatable",
    )
    particles: int = Field(
        default=1,
        ge=1,
        le=64,
        description="assets made together for one prompt; they take turns, so each gets its share of the steps",
    )
    checkpoint_every_s: float = Field(default=30.0, ge=1, le=86_400, description="seconds between checkpoints")
    preview_every: int = Field(default=50, ge=0, le=1_000_000, description="steps between previews; 0: none")
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = Field(
        default=(),
        description="where to write the numbers of the training besides metrics.json, into logs/: tensorboard, wandb "
        "(offline, unless WANDB_MODE says online); empty: nowhere",
    )


class ExpectedConfig(Config):
    """What a run costs, as measured; printed in its first line. Leave out what nobody has measured."""

    cpu_s_per_step: float | None = Field(default=None, gt=0, description="seconds per step on 2 idle CPU cores")
    memory_gb: float | None = Field(default=None, gt=0, description="peak memory on a CPU, gigabytes")


class About(Config):
    """What a recipe is called, where it comes from, and what holds for all of it."""

    kind: Literal["text_to_3d"] = Field(default="text_to_3d", description="the system that runs it")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=60, description="small letters, digits, - and _")
    title: str = Field(min_length=1, max_length=200, description="one line: what the recipe makes and how")
    paper: str = Field(default="", max_length=300, description="the paper it follows; empty if it follows none")
    seed_system: str = Field(default="", max_length=100, description="the published system it is modelled on")
    year: int | None = Field(default=None, ge=2000, le=2100, description="year of that paper")
    cite: tuple[str, ...] = Field(default=(), description="further works to cite, keys of sds3d.citations")
    needs: tuple[str, ...] = Field(default=(), description="what a user must have beyond the installation")
    writes: tuple[str, ...] = Field(default=(), description="the files it writes, for the list of recipes")
    status: Literal["works", "experimental"] = Field(default="experimental", description="an honest word on its state")
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="seed of every random draw of the run")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: CUDA if there is a card, else CPU"
    )
    prompt: PromptConfig = Field(default_factory=PromptConfig, description="which words hold from where")

    @field_validator("cite")
    @classmethod
    def _known_citations(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        for key in keys:
            if key not in CITATIONS:
                raise ValueError(f"'{key}' is not in sds3d.citations. Did you mean {nearest(key, CITATIONS)}?")
        return keys


class Stage(Config):
    """One part of a run: what is optimised, by which method, judged by which prior, seen from where, and how long."""

    prior: PriorConfig = Field(default_factory=PriorConfig, description="the frozen diffusion model")
    guidance: AnyGuidance = Field(default_factory=SdsConfig, description="the distillation method")
    also: tuple[AlsoConfig, ...] = Field(
        default=(), max_length=8, description="further priors with methods of their own, whose gradients are added"
    )
    renderer: AnyRenderer = Field(default_factory=GaussiansConfig, description="what is optimised")
    motion: MotionConfig | None = Field(
        default=None,
        description="how the asset moves; then training looks at clips, each from one place; null: not at all",
    )
    cameras: CamerasConfig = Field(default_factory=CamerasConfig, description="from where training looks")
    background: BackgroundConfig = Field(default_factory=BackgroundConfig, description="what is behind the object")
    optimiser: OptimiserConfig = Field(default_factory=OptimiserConfig, description="Adam and its learning rates")
    regularisers: dict[str, Weight] = Field(
        default_factory=dict, description="weight of each loss term of the renderer; a term left out has weight 0"
    )
    training: TrainingConfig = Field(default_factory=TrainingConfig, description="how long, and what to save")

    @field_validator("renderer", mode="before")
    @classmethod
    def _gaussians_unless_said(cls, renderer: Any) -> Any:
        return {"kind": "gaussians", **renderer} if isinstance(renderer, dict) else renderer

    @model_validator(mode="after")
    def _fit_the_renderer(self) -> Stage:
        """Check the names that belong to the renderer, and give the learning rates left out their defaults."""
        rates = self.optimiser.learning_rates
        moving = MotionConfig if self.motion is not None else None
        if moving:
            check_movable(self.renderer)
        parameters = {**self.renderer.PARAMETERS, **(moving.PARAMETERS if moving else {})}
        _check_names("optimiser.learning_rates", rates, parameters)
        terms = {**self.renderer.REGULARISERS, **(moving.REGULARISERS if moving else {})}
        _check_names("regularisers", self.regularisers, terms)
        completed = self.optimiser.model_copy(update={"learning_rates": {**self._usual_rates(), **rates}})
        if self.motion is not None and self.motion.frozen:  # the asset's own rates would train nothing
            kept = {name: rate for name, rate in completed.learning_rates.items() if name in MotionConfig.PARAMETERS}
            completed = completed.model_copy(update={"learning_rates": kept})
        object.__setattr__(self, "optimiser", completed)  # the model is frozen, this is still its making
        return self

    def _usual_rates(self) -> dict[str, Schedule]:
        return {**self.renderer.LEARNING_RATES, **(MotionConfig.LEARNING_RATES if self.motion is not None else {})}


class Recipe(Stage, About):
    """One way to make an asset, in one stage or several.

    Where there are `stages`, the keys of a stage stand for the whole and each stage changes some of them.
    """

    stages: dict[StageName, Stage] = Field(
        default_factory=dict,
        description="stages in their order, each begins with the asset of the one before; none: the recipe is one stage",
    )
    export: ExportConfig = Field(default_factory=ExportConfig, description="what to write at the end")
    expected: ExpectedConfig = Field(default_factory=ExpectedConfig, description="measured cost of a run")

    def plan(self) -> list[tuple[str, Recipe]]:
        """Return the stages in order as (name, recipe of one stage); a recipe without stages has one, named "".

        Prompts are put as the bundled prior knows them (`texts_of`).
        """
        stages = self.stages or {"": self}
        texts = texts_of(self.prompt.text, stages, self.seed)
        if not self.stages and texts[""] == self.prompt.text:
            return [("", self)]
        prompts = {name: self.prompt.model_copy(update={"text": text}) for name, text in texts.items()}
        return [
            (name, self.model_copy(update={"stages": {}, "prompt": prompts[name], **_keys_of(stage)}))
            for name, stage in stages.items()
        ]

    @model_validator(mode="after")
    def _generators_have_one_stage(self) -> Recipe:
        for name, stage in self.stages.items():
            if stage.renderer.kind == "triplane":
                raise KeyProblem(
                    f"stages.{name}.renderer.kind", f"The stage '{name}' has renderer.kind 'triplane', an object that a generator "
                    "makes at once: nothing can come before or after it. Leave 'stages' out, or choose another renderer."
                )  # fmt: skip
        return self

    @property
    def is_at_once(self) -> bool:
        """Whether a trained generator makes the asset, without optimisation."""
        return self.renderer.kind == "triplane" and not self.stages

    @model_validator(mode="after")
    def _formats_suit_the_asset(self) -> Recipe:
        check_formats(self.export.formats, self.plan()[-1][1].renderer.kind)
        return self

    @property
    def formats(self) -> tuple[ExportFormat, ...]:
        """The files to write: those the recipe names, or else what suits the asset."""
        return self.export.formats or usual(self.plan()[-1][1].renderer.kind)

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages together; 0 where a generator makes the asset at once."""
        return 0 if self.is_at_once else sum(stage.training.steps for _, stage in self.plan())


def _keys_of(stage: Stage) -> dict[str, Any]:
    return {key: getattr(stage, key) for key in Stage.model_fields}


def _check_names(path: str, given: dict[str, Schedule], known: dict[str, str]) -> None:
    for name in given:
        if name not in known:
            raise KeyProblem(
                f"{path}.{name}", f"Unknown key '{path}.{name}'. In '{path}' there is {nearest(name, known)}."
            )
