"""Can this prior answer what the method asks? Checked on configurations, before any weight is read. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sds3d.config.gaussians import FROM_VIEWS, GaussiansConfig
from sds3d.errors import ConfigError
from sds3d.guidance.config import GuidanceConfig
from sds3d.guidance.methods import METHODS
from sds3d.priors.folder import PriorFolder
from sds3d.priors.mvdream.keys import VIEWS
from sds3d.priors.source import Source, check_prior
from sds3d.prompts import Prompt
from sds3d.schedule import Schedule

if TYPE_CHECKING:
    from sds3d.config import Recipe
    from sds3d.config.recipe import AlsoConfig, Stage

NULL_ROLES = frozenset({"u", "0", "n"})


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """What a prior can be asked.

    Args:
        name: how messages call it.
        null_prompt: whether it has a prediction without the prompt; a guidance-distilled model has none.
        camera: whether it is told from where the picture is seen.
        group_views: so many views belong together (`Prior.group_views`).
        words: whether it reads the prompt; otherwise any words mean its reference picture.
    """

    name: str
    null_prompt: bool = True
    camera: bool = False
    group_views: int = 1
    words: bool = True

    @classmethod
    def of(cls, folder: PriorFolder, uses_camera: bool = True) -> Abilities:
        """Return the abilities of a diffusers folder; `uses_camera` False hides the camera from it."""
        unet, transformer = (folder.configs.get(part, {}) for part in ("unet", "transformer"))
        is_told_scale = unet.get("time_cond_proj_dim") is not None or bool(transformer.get("guidance_embeds"))
        return cls(
            name=str(folder.path),
            null_prompt=not is_told_scale,  # the guidance scale is an input of the network
            camera=uses_camera and unet.get("class_embed_type") == "projection",
        )

    @classmethod
    def of_source(cls, source: Source, uses_camera: bool = True) -> Abilities:
        """Return the abilities of a checked model of any family."""
        said = cls(name=source.name) if source.folder is None else cls.of(source.folder, uses_camera)
        always_told = uses_camera and source.family in ("multi_view", "zero123")
        return replace(
            said,
            name=source.name,
            camera=said.camera or always_told,
            group_views=VIEWS if source.family == "multi_view" else 1,
            words=source.family != "zero123",
        )


def check_method(config: GuidanceConfig, abilities: Abilities, prompt: Prompt | None = None) -> None:
    """Raise ConfigError if the method needs what the prior or the prompt does not have, naming what would work."""
    method, row = config.method, METHODS[config.method]
    null = null_branches(config)
    if (null or config.perp_neg is not None) and not abilities.null_prompt:
        branches = ", ".join(f"'{branch}'" for branch in null) or "'0' (for guidance.perp_neg)"
        raise ConfigError(
            f"Method '{method}' needs the branch {branches}, a prediction without the prompt, but the prior "
            f"'{abilities.name}' is guidance-distilled and has none. Use another prior, or {_alternatives(abilities)}.",
            path="guidance.method",
        )
    group = getattr(config, "group", 1)
    if "one model for all views" in row.needs and group != 1 and not abilities.camera:
        raise ConfigError(
            f"Method '{method}' with guidance.group={group} needs the branch with the camera, as it measures views "
            f"together, but the prior '{abilities.name}' knows only text (or prior.camera is false). Set "
            f"guidance.group=1, use a prior with a camera condition, or {_alternatives(abilities)}.",
            path="guidance.group",
        )
    if prompt is not None:
        _check_prompt(config, prompt)


def check_recipe(recipe: Recipe) -> list[Source]:
    """Return the recipe's priors, the main one of the first stage first, after checking that each fits its method.

    Raises: AssetError for a missing or broken folder, saying what the recipe needs; ConfigError for a method whose
    branches a prior cannot give, and for views or words that the prior would take wrongly.
    """
    prompt = recipe.prompt.build()
    parts: list[tuple[Stage, Stage | AlsoConfig]] = []
    for _, one in recipe.plan():
        parts += [(one, one), *((one, extra) for extra in one.also)]
    needed_by = f"The recipe '{recipe.name}' needs {recipe.needs[0]}" if recipe.needs else ""
    sources = []
    for stage, part in parts:
        source = check_prior(part.prior, needed_by)
        abilities = Abilities.of_source(source, part.prior.camera)
        check_method(part.guidance, abilities, prompt)
        check_views(stage.cameras.views, abilities)
        renderer = stage.renderer
        if part is stage and isinstance(renderer, GaussiansConfig) and renderer.init == FROM_VIEWS:
            check_views(renderer.init_views, abilities, "renderer.init_views")
        check_words(prompt, abilities)
        check_latents(stage, part.guidance)
        sources.append(source)
    return sources


def check_views(views: int, abilities: Abilities, key: str = "cameras.views") -> None:
    """Raise ConfigError if the `views` that `key` asks for are no whole number of the groups the prior sees together."""
    group = abilities.group_views
    if views % group:
        raise ConfigError(
            f"{key} is {views}, but the prior '{abilities.name}' looks at {group} views of the object together. "
            f"Set {key} to {group} or another multiple of {group}.",
            path=key,
        )


def check_latents(stage: Stage, guidance: GuidanceConfig) -> None:
    """Raise ConfigError if a stage that draws latents asks for what only pictures or a single prior can give."""
    if getattr(stage.renderer, "channels", "rgb") != "latent":
        return
    if stage.also:
        raise ConfigError(
            "renderer.channels is 'latent', but also= names a further prior, and each prior has latents of its own. Take "
            "also= out, or set renderer.channels=rgb.",
            path="also",
        )
    if guidance.pixel_filter != "none" or max(guidance.image_weight.values) > 0:
        raise ConfigError(
            "renderer.channels is 'latent', but guidance.pixel_filter or guidance.image_weight works on pixels. Set "
            "guidance.pixel_filter=none and guidance.image_weight=0, or renderer.channels=rgb.",
            path="guidance.pixel_filter",
        )


def check_words(prompt: Prompt, abilities: Abilities) -> None:
    """Raise ConfigError for a negative prompt that would mean the same to the prior as the prompt itself."""
    if prompt.negative.strip() and not abilities.words:
        raise ConfigError(
            f"prompt.negative is '{prompt.negative}', but the prior '{abilities.name}' reads no words: it would take them "
            "for its reference picture, and prompt and negative prompt would cancel. Set prompt.negative=''.",
            path="prompt.negative",
        )


def _check_prompt(config: GuidanceConfig, prompt: Prompt) -> None:
    row = METHODS[config.method]
    if any(branch.text == "src" for branch in row.rule(config).needs) and not prompt.source.strip():
        raise ConfigError(
            f"Method '{config.method}' edits a picture, but prompt.source is empty. Say in prompt.source what the start "
            "of the run looks like, for example prompt.source='a grey ball'.",
            path="prompt.source",
        )
    if config.perp_neg is not None and not prompt.view_dependent:
        raise ConfigError(
            "guidance.perp_neg compares views, but prompt.view_dependent is false. Set it to true, or take "
            "guidance.perp_neg out (null).",
            path="guidance.perp_neg",
        )


def _alternatives(abilities: Abilities) -> str:
    """Return methods that this prior can carry out, as advice."""
    words = [f"guidance.method={name}{extra}" for name, extra in possible(abilities)]
    return "one of: " + ", ".join(words) if words else "a prior with an empty prompt"


def possible(abilities: Abilities) -> list[tuple[str, str]]:
    """Return (method, further overrides) for all methods that make new pictures and fit the prior."""
    found = []
    for name, row in METHODS.items():
        if "source picture" in row.needs:
            continue
        for extra, changes in (("", {}), (" guidance.guidance_scale=1", {"guidance_scale": Schedule.constant(1.0)})):
            config = row.defaults().model_copy(update=changes)
            sees = abilities.camera or "one model for all views" not in row.needs or config.group == 1
            if sees and (abilities.null_prompt or not null_branches(config)):
                found.append((name, extra))
                break
    return found


def null_branches(config: GuidanceConfig) -> list[str]:
    """Return the branches that need a prediction without the prompt: of the rule, and of a walk to its points."""
    row = METHODS[config.method]
    asked = [branch for branch in row.rule(config).needs if branch.text in NULL_ROLES and branch.network == "base"]
    walked = [role for role in row.noiser(config).asks if role in NULL_ROLES]
    return list(dict.fromkeys([*(str(branch) for branch in asked), *walked]))
