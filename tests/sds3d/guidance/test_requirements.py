"""A method that the prior cannot carry out is refused before weights load, naming both and the alternatives."""

from __future__ import annotations

from pathlib import Path

import pytest

from sds3d.config import load_recipe
from sds3d.errors import AssetError, ConfigError
from sds3d.guidance.methods import METHODS
from sds3d.guidance.requirements import (
    Abilities,
    check_latents,
    check_method,
    check_recipe,
    check_views,
    check_words,
    possible,
)
from sds3d.priors.folder import PriorFolder
from sds3d.priors.source import Source
from sds3d.prompts import Prompt

FULL = Abilities(name="full", camera=True)
TEXT_ONLY = Abilities(name="text", camera=False)
DISTILLED = Abilities(name="fast", null_prompt=False)


def test_abilities_are_read_from_the_configuration() -> None:
    def folder(**unet: object) -> PriorFolder:
        return PriorFolder(path=Path("p"), metadata=None, configs={"unet": unet})  # type: ignore[arg-type]

    plain = Abilities.of(folder(class_embed_type=None, time_cond_proj_dim=None))
    assert (plain.name, plain.null_prompt, plain.camera) == ("p", True, False)
    assert Abilities.of(folder(class_embed_type="projection")).camera
    assert not Abilities.of(folder(class_embed_type="projection"), uses_camera=False).camera
    assert not Abilities.of(folder(time_cond_proj_dim=256)).null_prompt


@pytest.mark.parametrize("name", METHODS)
def test_a_full_prior_can_do_everything(name: str) -> None:
    check_method(METHODS[name].config(), FULL, Prompt(text="a mug", source="a cup"))


@pytest.mark.parametrize("name", ["sds", "csd", "vsd", "nfsd", "ism"])
def test_no_empty_prompt(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_method(METHODS[name].config(), DISTILLED)
    text = str(caught.value)
    assert f"Method '{name}' needs the branch" in text and "'fast' is guidance-distilled and has none" in text
    assert "guidance.method=sds guidance.guidance_scale=1" in text and caught.value.path == "guidance.method"


def test_the_alternatives_do_work() -> None:
    for abilities in (FULL, TEXT_ONLY, DISTILLED):
        found = possible(abilities)
        assert found
        for name, extra in found:
            scale = {"guidance_scale": 1.0} if extra else {}
            check_method(METHODS[name].config.model_validate(scale), abilities)
    distilled = dict(possible(DISTILLED))
    sampled = {"sds", "sjc", "rfds", "rfds-rev", "vsd", "esd", "adversarial", "asynchronous", "bridge"}
    assert sampled <= set(distilled) and not {"csd", "nfsd", "dsd", "bsd", "ism"} & set(distilled)
    assert set(distilled.values()) == {" guidance.guidance_scale=1"}
    assert "mvdream-recon" not in dict(possible(TEXT_ONLY)) and "mvdream-recon" in dict(possible(FULL))


def test_perp_neg_needs_the_empty_prompt_too() -> None:
    config = METHODS["sds"].config.model_validate({"guidance_scale": 1, "perp_neg": 1})
    with pytest.raises(ConfigError, match=r"needs the branch '0' \(for guidance.perp_neg\)"):
        check_method(config, DISTILLED)


def test_no_camera_on_a_text_only_model() -> None:
    config = METHODS["mvdream-recon"].config
    with pytest.raises(ConfigError, match=r"'mvdream-recon' with guidance.group=0 needs the branch with the camera"):
        check_method(config(), TEXT_ONLY)
    check_method(config(group=1), TEXT_ONLY)
    check_method(config(), FULL)


def test_the_prompt_must_say_what_is_edited_and_seen() -> None:
    with pytest.raises(ConfigError, match=r"'dds' edits a picture, but prompt.source is empty"):
        check_method(METHODS["dds"].config(), FULL, Prompt(text="a mug"))
    config = METHODS["sds"].config.model_validate({"perp_neg": 1})
    with pytest.raises(ConfigError, match=r"prompt.view_dependent is false"):
        check_method(config, FULL, Prompt(text="a mug", view_dependent=False))


def test_a_missing_prior_is_named_with_what_the_recipe_needs() -> None:
    recipe = load_recipe("prolificdreamer", [], ["prior.path=no/such"], {"prompt.text": ("the prompt", "a mug")})
    with pytest.raises(
        AssetError, match=r"'prolificdreamer' needs Stable Diffusion 2.1.*no/such' does not exist.*--tiny"
    ):
        check_recipe(recipe)


def test_every_prior_of_a_recipe_is_checked() -> None:
    extra = "also=[{prior: {path: no/such}, guidance: {method: csd}, weight: 0.5}]"
    recipe = load_recipe("quickstart", [], [extra], {"prompt.text": ("the prompt", "a mug")})
    with pytest.raises(AssetError, match=r"no/such' does not exist"):
        check_recipe(recipe)
    assert recipe.also[0].guidance.method == "csd" and Path(recipe.also[0].prior.path).is_absolute()


def source(family: str) -> Source:
    """Return a checked model of a family, as far as requirements look at it."""
    return Source(name=f"my-{family}", path=Path("p"), family=family, licence="", revision="")  # type: ignore[arg-type]


def test_views_must_be_whole_groups() -> None:
    together = Abilities.of_source(source("multi_view"))
    assert (together.group_views, together.camera, together.words) == (4, True, True)
    check_views(8, together)
    check_views(3, Abilities.of_source(source("latent_diffusion")))
    with pytest.raises(
        ConfigError, match=r"cameras.views is 6, but the prior 'my-multi_view' looks at 4 .*Set cameras.views to 4"
    ) as caught:
        check_views(6, together)
    assert caught.value.path == "cameras.views"


def test_a_prior_without_words_takes_no_negative_prompt() -> None:
    wordless = Abilities.of_source(source("zero123"))
    with pytest.raises(ConfigError, match=r"prompt.negative is 'ugly'.*'my-zero123' reads no words") as caught:
        check_words(Prompt(text="a mug", negative="ugly"), wordless)
    assert caught.value.path == "prompt.negative"
    check_words(Prompt(text="a mug", negative=" "), wordless)
    check_words(Prompt(text="a mug", negative="ugly"), Abilities.of_source(source("latent_diffusion")))


def test_a_recipe_is_refused_for_its_views_and_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from sds3d.guidance import requirements

    monkeypatch.setattr(requirements, "check_prior", lambda config, needed_by: source(config.path.split("/")[-1]))

    def recipe(*overrides: str) -> object:
        return load_recipe("quickstart", [], [*overrides], {"prompt.text": ("the prompt", "a mug")})

    with pytest.raises(ConfigError, match="another multiple of 4"):
        check_recipe(recipe("prior.path=no/multi_view", "cameras.views=2"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="another multiple of 4"):  # the other prior of a pair counts too
        check_recipe(recipe("also=[{prior: {path: no/multi_view}}]", "cameras.views=2"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"renderer.init_views is 6, .*Set renderer.init_views to 4"):
        check_recipe(recipe("prior.path=no/multi_view", "renderer={init: views, init_views: 6}"))  # type: ignore[arg-type]
    check_recipe(recipe("prior.path=no/multi_view", "renderer={init: ball, init_views: 6}"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"Set prompt.negative=''"):
        check_recipe(recipe("prior.path=no/zero123", "prompt.negative=blurry"))  # type: ignore[arg-type]
    check_recipe(recipe("prior.path=no/zero123", "cameras.views=2"))  # type: ignore[arg-type]


def test_latents_are_of_one_prior_and_have_no_pixels() -> None:
    def check(*overrides: str) -> None:
        recipe = load_recipe("latentnerf", ["tiny"], [*overrides], {"prompt.text": ("the prompt", "a mug")})
        _, stage = recipe.plan()[0]
        check_latents(stage, stage.guidance)

    check()
    with pytest.raises(ConfigError, match=r"each prior has latents of its own.*renderer.channels=rgb") as caught:
        check("also=[{prior: {path: toybox}}]")
    assert caught.value.path == "also"
    for key in ("guidance.pixel_filter=pixel", "guidance.image_weight=0.1"):
        with pytest.raises(ConfigError, match=r"works on pixels\. Set guidance.pixel_filter=none"):
            check(key)
