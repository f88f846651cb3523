"""Configuration of radiance_to_pbr: from pictures, or from an asset whose light is baked in, to one that can be relit.

A recipe of its own kind: it has no prompt and no prior, and its stages are fixed by the method. Files of this kind live in
`configs/materials/`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from sds3d.config import plain_yaml
from sds3d.config.base import Config
from sds3d.config.layers import merge
from sds3d.config.load import parse_override
from sds3d.config.materials_stages import PARAMETERS, STAGES, StagesConfig
from sds3d.config.materials_surface import MaterialSurfaceConfig
from sds3d.config.problems import explain_failure
from sds3d.config.shipped import shipped
from sds3d.errors import ConfigError, nearest
from sds3d.schedule import Schedule, ScheduleLike, bounded

Rate = Annotated[ScheduleLike, bounded(0, 1)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
_MATERIAL = ("base_colour", "roughness", "metallic")
_SH_LIMITS = {"sh0": 0.1, "sh_rest": 0.02}
_FIELD_LIMITS = {"raw_field": 0.1}
"""Baked colours that learn faster than this share of the materials' rate swallow what the materials should explain."""


class LearningRateWarning(UserWarning):
    """Baked colours learn so fast that materials may never converge."""


class SourceConfig(Config):
    """What is distilled."""

    path: str = Field(
        default="toybox:duck",
        min_length=1,
        max_length=2000,
        description="folder of pictures; or a finished run, or splats (.ply, .spz, .splat, .glb), whose colours are then "
        "taken for the truth; or toybox:NAME, a rendered set",
    )
    layout: Literal["auto", "blender", "tensoir", "colmap", "stanford_orb"] = Field(
        default="auto", description="how the folder is organised"
    )
    split: str = Field(default="train", max_length=200, description="which part of the folder to train on")
    shrink: int = Field(default=1, ge=1, le=64, description="divide both sides of the pictures by this")
    hold_out: int = Field(
        default=0, ge=0, le=1000, description="keep every n-th view for the report; 0: none. (toybox has views for it)"
    )
    size: int = Field(default=64, ge=8, le=2048, description="splats and toybox: side of the pictures that are drawn")
    views: int = Field(default=24, ge=4, le=1000, description="splats and toybox: number of those pictures")


class CloudConfig(Config):
    """The Gaussians."""

    count: int = Field(default=3000, ge=16, le=10_000_000, description="Gaussians; of a file of splats, all")
    init: Literal["hull", "ball"] = Field(
        default="hull", description="hull: on the surface of what all silhouettes allow; ball: anywhere in a ball"
    )
    hull_resolution: int = Field(default=64, ge=16, le=256, description="hull: cells along an edge of the world")
    init_radius: float = Field(default=1.0, gt=0, le=10, description="half of the world's edge, world units")
    init_opacity: float = Field(default=0.5, gt=0, lt=1, description="opacity at the start")
    thinness: float = Field(default=0.3, gt=0, le=1, description="hull: thickness of a Gaussian in units of its width")
    sh_degree: int = Field(default=3, ge=0, le=3, description="degree of the baked colours")
    relocate_every: int = Field(
        default=50, ge=0, le=100_000, description="raw: steps between rounds that move faint Gaussians; 0: never"
    )
    backend: Literal["auto", "reference", "cpu", "gsplat"] = Field(default="auto", description="rasteriser")


class ShadingConfig(Config):
    """How surfaces and light make a picture."""

    mode: Literal["simple", "coupled"] = Field(
        default="simple", description="simple: as in the papers; coupled: as glTF says, so that viewers show the same"
    )
    direction: Literal["dominant", "mirror"] = Field(
        default="dominant", description="where rough surfaces look up the light; mirror: as in the papers"
    )
    view_transform: Literal["srgb", "aces_srgb"] = Field(
        default="srgb", description="from light to picture: srgb for rendered sets, aces_srgb as in the paper"
    )
    light_resolution: int = Field(default=12, ge=4, le=256, description="texels along an edge of the cube map of light")
    light_start: float = Field(default=0.5, gt=0, le=100, description="radiance of the light at the start")
    visibility: bool = Field(default=True, description="bake which light the object hides from itself")
    visibility_cells: int = Field(default=16, ge=4, le=128, description="cells of that bake along an edge of the world")
    detached_geometry: float = Field(
        default=0.33,
        ge=0,
        le=1,
        description="share of stage specular in which the physical picture may turn Gaussians, but not move them",
    )


class WeightsConfig(Config):
    """Weights of the loss terms."""

    dssim: float = Field(default=0.2, ge=0, le=1, description="share of structural dissimilarity beside mean error")
    mask: Weight = Field(default=0.5, description="squared difference of opacity and mask")
    progress: Annotated[ScheduleLike, bounded(0, 1e6)] = Field(
        default=Schedule.constant(0.08),
        description="squared difference of progress and mask, from stage diffuse on; a fraction clock runs over all stages",
    )
    white: Weight = Field(default=0.003, description="colourfulness of the light, from stage diffuse on")
    normal: Weight = Field(default=0.05, description="disagreement of normals with those of the depth")
    flat: Weight = Field(default=0.1, description="thickness of Gaussians relative to their width")
    smooth: Weight = Field(default=0.02, description="change of materials across pixels where the picture has no edge")
    jitter: Weight = Field(default=0.03, description="on a mesh: difference of materials at neighbouring points")
    binary: Weight = Field(default=0.0, description="metalness between 0 and 1: for assets without photographs")


class PropagationConfig(Config):
    """How normals and colours are shaken up in stage specular (3DGS-DR)."""

    every: int = Field(default=0, ge=0, le=1_000_000, description="steps between two rounds; 0: never")
    opacity: float = Field(default=0.9, gt=0, lt=1, description="opacities are raised to at least this")
    grow: float = Field(default=1.5, ge=1, le=10, description="factor on the two longer axes of what reflects")
    reflects: float = Field(default=0.02, ge=0, le=1, description="progress from which on a Gaussian reflects")
    dull: float = Field(default=0.05, ge=0, le=1, description="progress up to which colours are disturbed")
    noise: float = Field(default=0.4, ge=0, le=10, description="largest disturbance of the coefficients sh0")


def _complete(rates: dict[str, Schedule]) -> dict[str, Schedule]:
    for name in rates:
        if name not in PARAMETERS:
            raise ValueError(f"'{name}' is no kind of parameter. Did you mean {nearest(name, PARAMETERS)}?")
    return {**MaterialsConfig.LEARNING_RATES, **rates}


class MaterialsConfig(Config):
    """One way to make a relightable asset of pictures or of a radiance field."""

    LEARNING_RATES: ClassVar[dict[str, Schedule]] = {
        "means": Schedule(clock="fraction", points=((0.0, 1e-3), (1.0, 1e-4))),
        "quats": Schedule.constant(5e-3),
        "log_scales": Schedule.constant(5e-3),
        "opacity_logits": Schedule.constant(0.03),
        "sh0": Schedule.constant(2.5e-3),
        "sh_rest": Schedule.constant(1.25e-4),
        "base_colour": Schedule.constant(0.03),
        "roughness": Schedule.constant(0.03),
        "metallic": Schedule.constant(0.03),
        "progress": Schedule.constant(0.03),
        "light": Schedule(clock="fraction", points=((0.0, 0.03), (0.6, 0.03), (1.0, 0.003))),
        "field": Schedule.constant(0.01),
        "raw_field": Schedule.constant(5e-4),
    }
    """Defaults; the fraction clock runs over all stages together."""

    kind: Literal["radiance_to_pbr"] = Field(default="radiance_to_pbr", description="the system that runs it")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=60, description="small letters, digits, - and _")
    title: str = Field(min_length=1, max_length=200, description="one line: what the recipe makes and how")
    paper: str = Field(default="", max_length=300, description="the paper it follows; empty if it follows none")
    status: Literal["works", "experimental"] = Field(default="experimental", description="an honest word on its state")
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="seed of every random draw of the run")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: CUDA if there is a card, else CPU"
    )
    method: Literal["progressive", "physics", "radiance"] = Field(
        default="progressive",
        description="progressive: the stages; physics: the same steps with progress 1 from the start; radiance: baked colours "
        "only. The last two are what the first is compared with",
    )
    source: SourceConfig = Field(default_factory=SourceConfig, description="what is distilled")
    cloud: CloudConfig = Field(default_factory=CloudConfig, description="the Gaussians")
    surface: MaterialSurfaceConfig = Field(
        default_factory=MaterialSurfaceConfig, description="a mesh instead of the Gaussians"
    )
    shading: ShadingConfig = Field(default_factory=ShadingConfig, description="light and surface")
    stages: StagesConfig = Field(default_factory=StagesConfig, description="how long each stage lasts")
    learning_rates: Annotated[dict[str, Rate], AfterValidator(_complete)] = Field(
        default_factory=lambda: dict(MaterialsConfig.LEARNING_RATES),
        description="learning rate of each kind of parameter; one left out has its default",
    )
    weights: WeightsConfig = Field(default_factory=WeightsConfig, description="loss terms")
    propagation: PropagationConfig = Field(default_factory=PropagationConfig, description="normal propagation")
    views: int = Field(default=2, ge=1, le=64, description="pictures a step")
    progress_start: float = Field(default=0.01, gt=0, lt=1, description="progress when stage specular begins")
    base_colour_start: float = Field(default=0.5, gt=0, lt=1, description="base colour when stage specular begins")
    roughness_start: float = Field(default=0.5, gt=0, lt=1, description="roughness when stage specular begins")
    metallic_start: float = Field(default=0.5, gt=0, lt=1, description="metalness when it is released")
    metallic_from_progress: bool = Field(
        default=False, description="start metalness from the progress that stage specular reached instead"
    )
    base_colour_from_baked: bool = Field(
        default=False,
        description="when metalness is released, let base colours begin at the baked ones where physics explains little yet",
    )
    texture_size: int = Field(default=512, ge=64, le=8192, description="side of the exported textures, texels")
    mesh_faces: int = Field(default=10_000, ge=100, le=2_000_000, description="most triangles of the exported mesh")

    @model_validator(mode="after")
    def _baked_colours_learn_slowly(self) -> MaterialsConfig:
        if self.method != "progressive":
            return self
        learnt, limits = (_MATERIAL, _SH_LIMITS) if self.surface.init == "none" else (("field",), _FIELD_LIMITS)
        slowest = min(max(self.learning_rates[name].values) for name in learnt)
        for stage in STAGES[1:]:
            config = getattr(self.stages, stage)
            for name, limit in limits.items():
                rate = max(self.learning_rates[name].values) * config.rate_scale.get(name, 1.0)
                if config.steps and rate > limit * slowest * (1.0 + 1e-9):
                    warnings.warn(
                        f"'{name}' learns at {rate:.3g} in stage {stage}, more than {limit:g} times the {slowest:.3g} of the "
                        "materials: baked colours may then explain everything and materials stay where they began. Lower "
                        f"learning_rates.{name}.",
                        LearningRateWarning,
                        stacklevel=2,
                    )
        return self

    @property
    def total_steps(self) -> int:
        """Steps of all stages together."""
        return sum(getattr(self.stages, name).steps for name in STAGES)


DEFAULT = "radiance-to-pbr"


def material_recipes() -> dict[str, Path]:
    """Return the shipped recipes of this kind: name -> file."""
    return {file.stem: file for file in sorted(shipped("configs", "materials").glob("*.yaml"))}


def load_materials(recipe: str | Path = DEFAULT, overrides: Iterable[str] = ()) -> MaterialsConfig:
    """Return the validated recipe of a name or a YAML file, with texts "dotted.key=value" on top.

    Raises: ConfigError, one line, naming the key.
    """
    path = Path(recipe)
    if not (path.suffix in (".yaml", ".yml") and path.is_file()):
        known = material_recipes()
        if str(recipe) not in known:
            raise ConfigError(
                f"There is no material recipe '{recipe}'. Use {nearest(str(recipe), known)}, or the path of a YAML file."
            )
        path = known[str(recipe)]
    merged: dict[str, Any] = plain_yaml.read(path)
    for text in overrides:
        layer = parse_override(text)
        merged = merge(merged, layer.data, layer.origin, None)
    try:
        return MaterialsConfig.model_validate(merged)
    except ValidationError as error:
        raise explain_failure(error, MaterialsConfig) from error


def dump_materials(config: MaterialsConfig) -> str:
    """Return the whole recipe as YAML text; loading that file alone gives an equal one."""
    return plain_yaml.write(config.model_dump(mode="json"))
