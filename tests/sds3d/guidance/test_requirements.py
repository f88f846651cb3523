"""A method that the prior cannot carry out is refused before weights load, naming both and the alternatives."""

from __future__ import annotations

from pathlib import Path

import pytest

from sds3d.config import load_recipe
from sds3d.errors import AssetError, ConfigError
from sds3d.guidance.methods import METHODS
from sds3d.guidance.requirements import Abilities, check_method, check_recipe, possible
from sds3d.priors.folder import PriorFolder
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
