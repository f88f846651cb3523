"""Recipes that train a generator instead of an asset. Imports no torch. See docs/generators.md."""

from __future__ import annotations

import warnings
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sds3d.config.base import Config
from sds3d.config.generator_views import ViewConfig, Weight
from sds3d.config.prior import PriorConfig
from sds3d.config.problems import KeyProblem
from sds3d.config.recipe import BackgroundConfig, CamerasConfig
from sds3d.guidance.config import GuidanceConfig
from sds3d.guidance.methods import AnyGuidance, SdsConfig
from sds3d.schedule import Schedule, bounded


class PredictionWarning(UserWarning):
    """A network that starts from nothing shall predict noise."""


class TeacherConfig(Config):
    """One frozen model that judges the pictures."""

    prior: PriorConfig = Field(
        default_factory=PriorConfig, description="the model; must be the same as that of `base` to share it"
    )
    guidance: AnyGuidance = Field(default_factory=SdsConfig, description="method and settings")
    weight: Weight = Field(default=Schedule.constant(1.0), description="factor on its loss")
    random_scale: tuple[float, float] | None = Field(
        default=None,
        description="range a guidance scale is drawn from in each step, instead of the method's (PG-SB: [2, 6], with "
        "fake.scale_like_teacher); null: the method's",
    )
    see: Literal["all", "one"] = Field(default="all", description="all views of an object, or one drawn at random")

    @model_validator(mode="after")
    def _check(self) -> TeacherConfig:
        if self.random_scale is not None and not 0.0 <= self.random_scale[0] <= self.random_scale[1] <= 1000.0:
            raise KeyProblem(
                "random_scale", f"'random_scale' is {list(self.random_scale)}, but must be two numbers in [0, 1000], the "
                "smaller first. Give for example [2, 6]."
            )  # fmt: skip
        return self


class NetworkConfig(Config):
    """The generator's network."""

    kind: Literal["tiny", "adapted", "image"] = Field(
        default="tiny",
        description="tiny: a small network from nothing; adapted: the base model with adapters, as triplanes; image: the "
        "base model's UNet with adapters, one picture",
    )
    prediction: Literal["auto", "epsilon", "v_prediction", "sample"] = Field(
        default="auto", description="what its output means; auto: the base model's own, v for tiny"
    )
    rank: int = Field(default=16, ge=1, le=512, description="rank of the adapters")
    width: int = Field(default=32, ge=8, le=512, multiple_of=8, description="tiny: channels of the network")
    latent_size: int = Field(default=8, ge=4, le=128, description="tiny: side of the latents")
    upsamplings: int = Field(default=2, ge=0, le=5, description="tiny: doublings in the decoder")
    channels: int = Field(default=32, ge=4, le=128, description="features of a texel")
    split: bool = Field(default=True, description="geometry and texture read halves of a wider output, as published")
    hidden: int = Field(default=64, ge=8, le=512, description="width of the heads")
    joint: bool = Field(default=True, description="planes of an object attend to each other")
    radius: float = Field(default=1.0, gt=0, le=10, description="half side of the box, world units")
    start_radius: float = Field(default=0.5, gt=0, le=10, description="of the sphere that training starts from")
    reach: float = Field(
        default=0.0, ge=0, le=10, description="how far surfaces can be from that sphere, world units; 0: anywhere"
    )


class FakeConfig(Config):
    """Who estimates the score of the generator's own pictures: nobody (shifted teacher), or a trained adapter."""

    kind: Literal["none", "adapter"] = Field(default="none", description="adapter: the teacher with a trained adapter")
    rank: int = Field(default=16, ge=1, le=512, description="rank of its adapter")
    learning_rate: float = Field(default=1e-4, gt=0, le=1, description="of its AdamW")
    steps: int = Field(default=1, ge=1, le=100, description="its steps for each of the generator's (two time scales)")
    warm_up: int = Field(default=0, ge=0, le=100_000, description="its steps before the generator's first")
    scale: float = Field(default=1.0, ge=0, le=100, description="classifier-free guidance of its prediction; 1: none")
    scale_like_teacher: bool = Field(default=False, description="use the teacher's guidance scale instead of `scale`")
    dropout: float = Field(default=0.0, ge=0, le=1, description="share of its samples that do not see their prompt")
    weight: Literal["uniform", "alpha2"] = Field(default="uniform", description="of noise levels in its loss")


class GeneratorOptimiser(Config):
    """How the generator is trained."""

    kind: Literal["adam", "adan"] = Field(default="adam", description="adan: as published for triplanes")
    learning_rate: Annotated[Schedule, bounded(0, 1)] = Field(
        default=Schedule.constant(2e-4), description="of all trained parameters"
    )
    betas: tuple[float, ...] = Field(default=(0.9, 0.99), description="two for adam, three for adan")
    eps: float = Field(default=1e-15, ge=0, le=1, description="added to the denominator")
    clip: float = Field(default=0.0, ge=0, le=1e6, description="largest length of the gradient; 0: no limit")
    ema: float = Field(default=0.0, ge=0, lt=1, description="decay of the averaged weights; 0: no average")


class GeneratorTraining(Config):
    """Length of the run. Steps are optimiser steps, and so are the clocks of all schedules."""

    steps: int = Field(default=1000, ge=1, le=10_000_000, description="optimiser steps")
    batch: int = Field(default=2, ge=1, le=4096, description="prompts a process draws at once")
    accumulate: int = Field(default=1, ge=1, le=4096, description="such batches a step")
    checkpoint_every_s: float = Field(default=60, gt=0, le=1e6, description="seconds between checkpoints")
    log_every: int = Field(default=10, ge=1, le=10_000, description="steps between rows of the log")


class VarietyConfig(Config):
    """Keeps apart the objects that one prompt gives for different noise. Ours; a method that seeks modes gives one object."""

    seeds: int = Field(
        default=1, ge=1, le=64, description="objects of one prompt in a batch, all seen from the same places; 1: off"
    )
    distance: float = Field(
        default=0.06, gt=0, le=1, description="root mean square difference that their pictures shall have at least"
    )
    weight: Weight = Field(default=Schedule.constant(1000.0), description="factor on what is missing")


class AboutGenerator(Config):
    """What all recipes of `configs/generators/` say of themselves, and their seed."""

    name: str = Field(default="custom", description="name of the recipe")
    title: str = Field(default="", description="what it makes, in a line")
    paper: str = Field(default="", description="title of the paper")
    arxiv: str = Field(default="", description="its number")
    year: int = Field(default=2025, ge=2000, le=2100, description="of the paper")
    needs: tuple[str, ...] = Field(default=(), description="what must be brought")
    status: Literal["works", "experimental"] = Field(default="experimental", description="how far it is tried")
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="of everything random")


class GeneratorRecipe(AboutGenerator):
    """What it takes to train a generator with a frozen prior."""

    kind: Literal["generator"] = "generator"
    device: str = Field(default="auto", description="auto, cpu or cuda")
    base: PriorConfig | None = Field(
        default_factory=PriorConfig, description="the model that is adapted, and reads prompts"
    )
    network: NetworkConfig = Field(default_factory=NetworkConfig, description="the generator")
    turns: int = Field(default=4, ge=1, le=64, description="K: network calls from noise to object")
    trains: Literal["all", "one"] = Field(
        default="all", description="turns that get a gradient: all, or one drawn a step"
    )
    renoise: Literal["fresh", "predicted"] = Field(default="fresh", description="noise between turns in training")
    loss: Literal["distillation", "sid"] = Field(
        default="distillation", description="sid: score identity, with a gradient through both networks"
    )
    sid_alpha: float = Field(default=1.2, ge=0, le=10, description="a of score identity distillation")
    window: Literal["shared", "band", "upper"] = Field(
        default="shared", description="teacher times a turn sees: all; its own K-th; or up to the turn's own time"
    )
    teachers: tuple[TeacherConfig, ...] = Field(
        default_factory=lambda: (TeacherConfig(),), min_length=1, max_length=8, description="losses are added"
    )
    fake: FakeConfig = Field(default_factory=FakeConfig, description="score of the generator's own pictures")
    views: tuple[ViewConfig, ...] = Field(
        default_factory=lambda: (ViewConfig(),),
        min_length=1,
        max_length=4,
        description="renderers, each turn all of them",
    )
    cameras: CamerasConfig = Field(default_factory=CamerasConfig, description="new ones for each turn and object")
    background: BackgroundConfig = Field(default_factory=BackgroundConfig, description="behind the pictures")
    variety: VarietyConfig = Field(default_factory=VarietyConfig, description="of the objects of one prompt")
    optimiser: GeneratorOptimiser = Field(default_factory=GeneratorOptimiser, description="of the generator")
    training: GeneratorTraining = Field(default_factory=GeneratorTraining, description="length of the run")

    @model_validator(mode="after")
    def _check(self) -> GeneratorRecipe:
        network, is_image = self.network, self.network.kind == "image"
        if is_image != all(view.kind == "identity" for view in self.views):
            raise KeyProblem(
                "views", f"'views' do not suit network.kind '{network.kind}': pictures need views of kind identity, "
                "triplanes volume or mesh. Change one of them."
            )  # fmt: skip
        if self.base is None and network.kind != "tiny":
            raise KeyProblem("base", f"network.kind '{network.kind}' adapts a model, but 'base' is null. Name one.")
        trained = any("score" in type(t.guidance).model_fields for t in self.teachers) or self.loss == "sid"
        if trained != (self.fake.kind != "none"):
            raise KeyProblem(
                "fake.kind", f"'fake.kind' is {self.fake.kind}, but the teachers' methods "
                f"{'need a trained score (adapter)' if trained else 'use none'}. Set it so."
            )  # fmt: skip
        if self.training.batch % self.variety.seeds:
            raise KeyProblem(
                "variety.seeds", f"'variety.seeds' is {self.variety.seeds}, but must divide training.batch, which is "
                f"{self.training.batch}. Change one of them."
            )  # fmt: skip
        wanted = 3 if self.optimiser.kind == "adan" else 2
        if len(self.optimiser.betas) != wanted or not all(0 <= beta < 1 for beta in self.optimiser.betas):
            raise KeyProblem(
                "optimiser.betas", f"'optimiser.betas' is {list(self.optimiser.betas)}, but {self.optimiser.kind} needs "
                f"{wanted} numbers in [0, 1). Give them."
            )  # fmt: skip
        if network.kind == "tiny" and network.prediction == "epsilon":
            warnings.warn(
                "network.prediction=epsilon with a network that starts from nothing: at the first turn its error is "
                "multiplied by sigma / alpha, about 14.6, and training does not get far. Use v_prediction or sample.",
                PredictionWarning,
                stacklevel=2,
            )
        return self

    @property
    def guidances(self) -> tuple[GuidanceConfig, ...]:
        """The teachers' methods."""
        return tuple(teacher.guidance for teacher in self.teachers)


class FlowRecipe(AboutGenerator):
    """Few-step flow distillation (MDT-dist): velocity matching and velocity distillation of a frozen flow."""

    kind: Literal["flow"] = "flow"
    matching_weight: float = Field(default=1.0, ge=0, le=100, description="of velocity matching (VM); not 0")
    distillation_weight: float = Field(default=1.0, ge=0, le=100, description="of velocity distillation (VD)")
    derivative: Literal["discrete", "continuous"] = Field(
        default="discrete", description="total derivative: difference, or JVP"
    )
    step: float = Field(default=0.01, gt=0, lt=0.5, description="h of the discrete derivative")
    norm: Literal["none", "sample", "rms", "limit"] = Field(
        default="sample",
        description="what limits the derivative: division by its length or rms, or by its rms only where that is above 1",
    )
    matching_scale: float = Field(default=0.0, ge=0, le=1000, description="c of the teacher's guidance in VM")
    distillation_scale: float = Field(default=0.0, ge=0, le=1000, description="c of the teacher's guidance in VD")
    learning_rate: float = Field(default=1e-3, gt=0, le=1, description="of Adam")
    decay: Literal["none", "cosine"] = Field(default="cosine", description="how the learning rate falls to 0")
    batch: int = Field(default=256, ge=1, le=100_000, description="samples a step")
    steps: int = Field(default=1500, ge=1, le=10_000_000, description="steps")

    @model_validator(mode="after")
    def _check(self) -> FlowRecipe:
        if self.matching_weight == 0.0:
            raise KeyProblem(
                "matching_weight", "'matching_weight' is 0, but velocity distillation alone grows without bound, because "
                "nothing ties the student's field to its samples. Give a number above 0."
            )  # fmt: skip
        return self


def is_flow(data: dict[str, Any]) -> bool:
    """Return whether plain keys are those of a `FlowRecipe`."""
    return data.get("kind") == "flow"
