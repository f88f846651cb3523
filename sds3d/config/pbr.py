"""Configuration of the mesh with a PBR material. Names and meanings are those of `renderers.pbr_mesh`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from sds3d.config.base import Config, increasing
from sds3d.config.surface import FILE_ENDINGS, TextureConfig
from sds3d.errors import nearest
from sds3d.schedule import Schedule
from sds3d.toybox.palette import NOUNS

TOYBOX = "toybox:"
"""Before the name of an object of the toybox, as a start."""
CONDITIONS = {"depth": 1, "normal": 3, "light": 18}
"""Condition pictures and their channels, see `renderers.conditions`; all three in this order are DreamMat's 22."""
LIGHT_NAMES = ("studio", "sunset", "overcast", "noon", "ring", "lamps", "sky", "constant")
"""Keys of `sds3d.shading.lights.LIGHTS` (a test compares them); importing that takes torch."""
LIGHT_ENDINGS = (".hdr", ".exr")

Share = Annotated[float, Field(ge=0, le=1)]
Range = Annotated[tuple[Share, Share], AfterValidator(increasing)]


def _start(init: str) -> str:
    if init == "sphere" or init.lower().endswith(FILE_ENDINGS):
        return init
    if init.startswith(TOYBOX) and init.removeprefix(TOYBOX) in NOUNS:
        return init
    known = f"'{TOYBOX}' and {nearest(init.removeprefix(TOYBOX), NOUNS)}" if init.startswith(TOYBOX) else "'toybox:mug'"
    raise ValueError(
        f"a start is 'sphere', {known}, or a file that ends in {', '.join(FILE_ENDINGS)}; got '{init}'. Give one of these."
    )


def _light(name: str) -> str:
    if name in LIGHT_NAMES or name.lower().endswith(LIGHT_ENDINGS):
        return name
    raise ValueError(
        f"a light is {nearest(name, LIGHT_NAMES)}, or a file that ends in .hdr or .exr; got '{name}'. Give one of these."
    )


class PbrMeshConfig(Config):
    """A given triangle mesh, which stays, with a material that is learnt: base colour, roughness, metalness."""

    PARAMETERS: ClassVar[dict[str, str]] = {
        "texture": "features of the material's hash grid, or the material itself before the sigmoid",
        "network": "the small network that turns features into the material",
    }
    """Kinds of parameters: the keys of `optimiser.learning_rates`."""

    LEARNING_RATES: ClassVar[dict[str, Schedule]] = {
        "texture": Schedule.constant(0.01),
        "network": Schedule.constant(0.01),
    }
    """Default learning rates. Source: DreamMat."""

    REGULARISERS: ClassVar[dict[str, str]] = {
        "base_colour_smooth": "mean difference of base colour at points a little apart (jitter)",
        "material_smooth": "mean difference of roughness, metalness and bump at points a little apart (jitter)",
    }
    """Loss terms: the keys of `regularisers`."""

    kind: Literal["pbr_mesh"] = Field(default="pbr_mesh", description="kind of renderer")
    init: Annotated[str, AfterValidator(_start)] = Field(
        default="sphere",
        max_length=1000,
        description="the mesh that gets a material: sphere, an object of the toybox (toybox:mug), or a mesh file",
    )
    init_size: float | None = Field(
        default=0.85, gt=0, le=2, description="centre the mesh of a file and scale it to this radius; null: as it is"
    )
    init_radius: float = Field(default=0.7, gt=0, le=2, description="radius of that sphere, world units")
    radius: float = Field(default=1.0, gt=0, le=4, description="half the side of the material's box, world units")
    texture: TextureConfig = Field(
        default_factory=lambda: TextureConfig(kind="field"),
        description="where the material is kept: a 'field' (hash grid and network) or a 'grid'",
    )
    base_colour: Range = Field(default=(0.03, 0.97), description="[lowest, highest] base colour, linear")
    roughness: Range = Field(default=(0.1, 0.95), description="[lowest, highest] roughness")
    metallic: Range = Field(default=(0.0, 0.9), description="[lowest, highest] metalness; [0, 0]: no metals")
    bump: float = Field(
        default=0.0,
        ge=0,
        le=2,
        description="how far the material may turn normals, as a slope; exported as a normal map; 0: not at all",
    )
    lights: tuple[Annotated[str, AfterValidator(_light)], ...] = Field(
        default=("studio", "sunset", "overcast", "noon", "ring"),
        min_length=1,
        max_length=256,
        description="lights of the training pictures: names (see 'render --light') or .hdr and .exr files; each view draws "
        "one; pictures for people are lit by the first",
    )
    turn_lights: bool = Field(default=True, description="turn the light of each view by a random angle about +Z")
    exposure: float | None = Field(
        default=0.8,
        gt=0,
        le=100,
        description="scale each light so that a white ball is so bright in the mean (linear); null: as it is",
    )
    light_resolution: int = Field(default=32, ge=4, le=256, description="texels along an edge of the lights' cube maps")
    mode: Literal["simple", "coupled", "layered"] = Field(
        default="layered", description="how diffuse and specular parts add up; layered: as viewers of .glb files do"
    )
    view_transform: Literal["srgb", "aces_srgb"] = Field(
        default="srgb", description="from light to pictures: clipped, or by the ACES curve"
    )
    occlusion: bool = Field(
        default=True, description="weaken light that the mesh itself hides (ambient occlusion); also exported"
    )
    normals: Literal["smooth", "flat"] = Field(default="smooth", description="normals of the vertices or of the faces")
    conditions: tuple[Literal["depth", "normal", "light"], ...] = Field(
        default=(), description="pictures for the prior's ControlNets, in this order: depth, normal, light"
    )
    jitter: float = Field(default=0.05, gt=0, le=1, description="how far apart points are compared, world units")
    backend: Literal["auto", "reference", "cpu", "nvdiffrast", "pytorch3d"] = Field(
        default="auto", description="rasteriser; reference: plain torch, slow; 'doctor' lists them"
    )

    @model_validator(mode="after")
    def _in_space(self) -> PbrMeshConfig:
        if self.texture.kind not in ("grid", "field"):
            raise ValueError(
                f"texture.kind is '{self.texture.kind}', but a material is a function of the place: use 'field' or 'grid'."
            )
        if len(set(self.conditions)) != len(self.conditions):
            raise ValueError(f"conditions names a picture twice: {', '.join(self.conditions)}. Name each once.")
        return self

    @property
    def control_channels(self) -> int:
        """Channels of the condition pictures."""
        return sum(CONDITIONS[name] for name in self.conditions)

    @property
    def is_file(self) -> bool:
        """Whether the run starts from a file."""
        return self.init != "sphere" and not self.init.startswith(TOYBOX)

    @property
    def cites(self) -> tuple[str, ...]:
        """Works this renderer builds on, keys of `sds3d.citations`."""
        return (*(("instant_ngp",) if self.texture.kind == "field" else ()), "nvdiffrast", "split_sum")
