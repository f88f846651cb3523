"""What ships keeps its promises: sizes, formats, and the figures the model card gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sds3d.config.shipped import shipped
from sds3d.priors.folder import check_folder
from sds3d.toybox.captions import Description
from sds3d.toybox.palette import COLORS, NOUNS, held_out_pairs

PRIOR, JUDGE = shipped("assets", "priors", "toybox"), shipped("assets", "judge")


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_sizes_and_formats():
    assert size_of(PRIOR) <= 40e6 and size_of(JUDGE) <= 4e6
    folder = check_folder(PRIOR)
    assert folder.metadata.nouns == NOUNS and folder.metadata.colours == tuple(COLORS)
    from safetensors import safe_open

    for files in folder.weights.values():
        for file in files:
            with safe_open(file, "pt") as weights:
                assert {str(weights.get_slice(name).get_dtype()) for name in weights.keys()} <= {"F16", "I64"}  # noqa: SIM118


def test_the_generator_is_small_and_knows_the_words_of_its_prompts():
    from sds3d.config.triplane import TriplaneConfig
    from sds3d.generators.about import read_about, words_of
    from sds3d.metrics.prompt_lists import prompt_list

    file = TriplaneConfig().file
    assert file.stat().st_size <= 20e6
    prompts = prompt_list("toybox-shapes120")
    assert read_about(file).words == words_of(prompts) and len(prompts) == 120
    assert not {f"a {colour} {noun}" for noun, colour in held_out_pairs()} & set(prompts)


def renders(pairs: list[tuple[str, str]], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images [N, 64, 64, 4] and records of new specimens, from a random side each."""
    import torch

    from sds3d.cameras import orbit
    from sds3d.toybox.dataset import RECORD, build
    from sds3d.toybox.raster import render_rgba

    rng = np.random.default_rng(seed)
    images, records = [], np.zeros(len(pairs), RECORD)
    for row, (noun, color) in enumerate(pairs):
        azimuth, elevation = rng.uniform(0, 360), rng.uniform(0, 35)
        place = [torch.tensor([float(value)]) for value in (azimuth, elevation, 2.5)]
        matrix = orbit(*place, 45.0, 64, 64).cam_to_world[0].numpy()
        images.append(render_rgba(build(Description(noun=noun, color=color), rng), matrix, 64))
        words = (NOUNS.index(noun), list(COLORS).index(color), 0, False, False)
        records[row] = (*words, azimuth, elevation, 2.5)
    return np.stack(images), records


def test_the_judge_names_renders_it_never_saw():
    from sds3d.toybox.judge import evaluate_judge, load_judge

    scores = evaluate_judge(load_judge(), *renders(held_out_pairs() * 8, seed=990))
    assert scores["noun"] >= 0.97 and scores["color"] >= 0.96 and scores["azimuth_within_45"] >= 0.9
    written = json.loads((JUDGE / "judge.json").read_text())
    assert min(written[part][word] for part in written for word in ("noun", "color")) >= 0.97


@pytest.mark.slow
def test_the_prior_listens_to_text_and_camera():
    from sds3d.priors.latent_diffusion import LatentDiffusionPrior
    from sds3d.toybox.evaluate import wrong_condition_losses

    rng = np.random.default_rng(0)
    pairs = [(NOUNS[i % 24], list(COLORS)[rng.integers(11)]) for i in range(192)]
    losses = wrong_condition_losses(LatentDiffusionPrior.from_folder(PRIOR), *renders(pairs, seed=991))
    assert losses["val_shuffled_text"] > 1.5 * losses["val"]
    assert losses["val_shuffled_camera"] > 1.1 * losses["val"]
