import re
from collections import Counter

import numpy as np
import pytest

from sds3d.toybox import captions
from sds3d.toybox.captions import Description, caption, phrase, view_word, vocabulary
from sds3d.toybox.dataset import SetConfig, draw_description, draw_orbit, load_set, make_set
from sds3d.toybox.palette import COLORS, NOUNS, held_out_pairs, is_held_out


def test_phrases():
    assert phrase(Description(noun="mug", color="red")) == "a red mug"
    assert phrase(Description(noun="apple", color="orange")) == "an orange apple"
    full = Description(noun="car", color="blue", height="tall", is_striped=True, has_base=True)
    assert phrase(full) == "a tall striped blue car on a base"
    assert phrase(Description(noun="umbrella", color="red"), with_color=False) == "an umbrella"


@pytest.mark.parametrize(
    ("azimuth", "elevation", "word"),
    [(0, 0, "front view"), (350, 20, "front view"), (90, 0, "side view"), (200, 0, "back view"), (0, 60, "top view")],
)
def test_view_words_follow_the_camera(azimuth, elevation, word):
    assert view_word(azimuth, elevation) == word


def test_shares_of_caption_parts():
    rng = np.random.default_rng(0)
    drawn = [caption(Description(noun="dog", color="red"), 0.0, 0.0, rng) for _ in range(4000)]
    said = [text for text in drawn if text]
    assert len(said) / 4000 == pytest.approx(1 - captions.EMPTY_SHARE, abs=0.02)
    assert np.mean(["red" in text for text in said]) == pytest.approx(1 - captions.NO_COLOR_SHARE, abs=0.02)
    assert np.mean(["front view" in text for text in said]) == pytest.approx(captions.VIEW_SHARE, abs=0.02)
    assert all("dog" in text for text in said)


def test_every_word_of_every_caption_is_one_token(tmp_path):
    from transformers import CLIPTokenizer

    from sds3d.toybox.tokenizer import MAX_TOKENS, write_tokenizer

    size = write_tokenizer(tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert len(tokenizer) == size and tokenizer.model_max_length == MAX_TOKENS
    rng = np.random.default_rng(1)
    for index in range(300):
        text = caption(draw_description(index, "all", rng), float(rng.uniform(0, 360)), 10.0, rng)
        words = re.findall(r"[a-z]+|\d|,", text)
        assert len(tokenizer(text).input_ids) == len(words) + 2, text
    assert all(len(tokenizer(word).input_ids) == 3 for word in vocabulary() if word.isalpha())
    assert len(tokenizer("zebra").input_ids) > 3  # unknown words fall to pieces


def test_held_out_pairs_never_occur_in_training_and_are_all_there_is_in_the_held_out_set():
    rng = np.random.default_rng(0)
    for index in range(2000):
        trained, held = draw_description(index, "train", rng), draw_description(index, "held-out", rng)
        assert not is_held_out(trained.noun, trained.color)
        assert is_held_out(held.noun, held.color)
    pairs = held_out_pairs()
    assert len(pairs) == len({noun for noun, _ in pairs}) == len(NOUNS)
    assert len({color for _, color in pairs}) == len(COLORS)


def test_orbits_cover_the_sphere_as_documented():
    views = draw_orbit(20000, np.random.default_rng(0))
    quadrant = Counter((views[:, 0] // 90).astype(int))
    assert all(count == pytest.approx(5000, rel=0.06) for count in quadrant.values())
    assert views[:, 1].min() >= -10 and views[:, 1].max() <= 60
    assert ((views[:, 1] >= 0) & (views[:, 1] <= 35)).mean() == pytest.approx(0.4 + 0.6 * 0.5, abs=0.02)


def test_a_set_is_a_function_of_its_seed_and_rendered_once(tmp_path):
    config = SetConfig(objects=3, views=2, seed=9)
    made = list(make_set(tmp_path / "a", config, workers=1))
    assert len(made) == 1 and not list(make_set(tmp_path / "a", config, workers=1))
    images, records = load_set(tmp_path / "a", config)
    list(make_set(tmp_path / "b", config, workers=1))
    again, words = load_set(tmp_path / "b", config)
    assert images.shape == (6, 64, 64, 4) and np.array_equal(images, again) and np.array_equal(records, words)
    assert (images[..., 3].max(axis=(1, 2)) == 255).all()
    assert (images[..., :3] <= images[..., 3:]).all()  # premultiplied
    with pytest.raises(FileNotFoundError, match="run make_set first"):
        load_set(tmp_path / "c", config)
