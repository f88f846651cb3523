from pathlib import Path

import pytest

from sds3d.errors import AssetError, ConfigError
from sds3d.metrics.prompt_lists import prompt_list, prompt_list_files
from sds3d.metrics.words import words_of
from sds3d.toybox.captions import Description, phrase
from sds3d.toybox.palette import COLORS, NOUNS


def test_the_415_prompts_of_dreamfusion() -> None:
    prompts = prompt_list("dreamfusion415")
    assert len(prompts) == len(set(prompts)) == 415
    assert prompts[0] == "a 20-sided die made out of glass" and prompts[-1] == "Wedding dress made of tentacles"
    assert all(prompt == " ".join(prompt.split()) for prompt in prompts)


def test_the_toybox_list_is_what_the_toybox_says() -> None:
    expected = [phrase(Description(noun=noun, color=color)) for noun in NOUNS for color in COLORS]
    assert list(prompt_list("toybox264")) == expected
    assert all(words_of(prompt) is not None for prompt in expected)


def test_every_list_names_its_source() -> None:
    page = (next(iter(prompt_list_files().values())).parent / "README.md").read_text(encoding="utf-8")
    assert all(f"`{file.name}`" in page for file in prompt_list_files().values())


def test_a_file_of_the_user_and_what_can_be_wrong_with_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("\ufeffa red mug\n\n  a blue dog \n", encoding="utf-8")
    assert prompt_list(str(file)) == ("a red mug", "a blue dog")
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AssetError, match="cannot be read as text"):
        prompt_list(str(file))
    file.write_text("\n\n")
    with pytest.raises(AssetError, match="holds no prompt"):
        prompt_list(str(file))
    file.write_text("x" * 10_000)
    with pytest.raises(AssetError, match=r"Prompt 1 of .* has 10000 characters"):
        prompt_list(str(file))
    with pytest.raises(ConfigError, match=r"no list of prompts 'dreamfusion'.*'dreamfusion415'"):
        prompt_list("dreamfusion")
