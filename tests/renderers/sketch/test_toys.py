"""Drawings of toybox objects, and the judge that looks at drawings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from renderers.sketch.toys import STYLES, DrawingsConfig, draw_set, strokes_of_toy
from sds3d.meshing.from_toybox import mesh_from_toy
from sds3d.toybox.dataset import build, draw_description
from sds3d.toybox.judge import DRAWN, NO_COLOUR, Judge, default_judge, evaluate_judge, load_judge, save_judge
from sds3d.toybox.palette import COLORS, NOUNS, is_held_out

FEW = DrawingsConfig(objects=3, views=2, seed=7, pairs="held-out")


def test_sets_repeat_and_say_what_they_show():
    images, records = draw_set(FEW)
    again, same = draw_set(FEW)
    assert images.shape == (12, 64, 64, 4) and (images == again).all() and (records == same).all()
    assert records["noun"].tolist() == [k for k in range(3) for _ in range(2 * len(STYLES))]
    names = list(COLORS)
    known = records[records["color"] != NO_COLOUR]
    assert len(known) and all(is_held_out(NOUNS[r["noun"]], names[r["color"]]) for r in known)
    assert images[..., 3].reshape(12, -1).max(axis=1).min() > 100  # ink in every picture
    assert (images[..., :3] <= images[..., 3:] + 1).all()  # premultiplied
    black = images[records["color"] == NO_COLOUR]
    assert not len(black) or black[..., :3].max() <= 1


@pytest.mark.parametrize("style", STYLES)
def test_strokes_lie_on_the_object_in_its_colours(style):
    rng = np.random.default_rng(2)
    mesh = mesh_from_toy(build(draw_description(4, "all", rng), rng))
    strokes = strokes_of_toy(mesh, style, rng)
    middle = strokes.points.mean(dim=1)
    gap = torch.cdist(middle, torch.from_numpy(mesh.vertices).float()).amin(dim=1)
    assert 24 <= len(strokes) <= 128 and float(gap.median()) < 0.12
    wanted = torch.cdist(strokes.colours.sigmoid(), torch.from_numpy(mesh.colors).float()).amin(dim=1)
    assert float(wanted.max()) < 0.01
    dark = strokes_of_toy(mesh, style, rng, is_black=True)
    assert float(dark.colours.sigmoid().max()) < 1e-4


def test_judges_have_files_of_their_own_and_skip_colours_nobody_sees(tmp_path):
    torch.manual_seed(0)
    judge = Judge()
    save_judge(judge, tmp_path, {}, DRAWN)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["drawings.json", "drawings.safetensors"]
    back = load_judge(tmp_path, DRAWN)
    for name, value in judge.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], value, atol=1e-3, rtol=1e-3)
    images, records = draw_set(FEW)
    said = evaluate_judge(judge, images, records)["color"]
    records["color"][0], records["color"][1:] = 0, NO_COLOUR
    assert said == said and evaluate_judge(judge, images, records)["color"] in (0.0, 1.0)


@pytest.mark.slow
def test_the_shipped_judge_knows_drawings_it_never_saw():
    assert (default_judge() / "drawings.safetensors").stat().st_size < 2e6
    images, records = draw_set(DrawingsConfig(objects=24, views=2, seed=77))
    found = evaluate_judge(load_judge(name=DRAWN), images, records)
    assert found["noun"] > 0.6 and found["color"] > 0.5  # chance: 0.04 and 0.09
