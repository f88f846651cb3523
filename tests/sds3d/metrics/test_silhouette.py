import numpy as np
import pytest

from sds3d.cameras import turntable
from sds3d.metrics.silhouette import draw_references, load_references, silhouette_rank, silhouette_scores
from sds3d.toybox.captions import Description
from sds3d.toybox.dataset import build
from sds3d.toybox.palette import NOUNS
from sds3d.toybox.raster import render_rgba


def masks(noun: str, seed: int) -> np.ndarray:
    mesh = build(Description(noun=noun, color="blue"), np.random.default_rng(seed))
    matrices = turntable(8, 64, 20.0, 2.5).cam_to_world.numpy()
    return np.stack([render_rgba(mesh, matrix, 64)[..., 3] / 255.0 for matrix in matrices])


@pytest.mark.parametrize("noun", ["car", "chair", "mug", "airplane", "tree", "robot"])
def test_true_objects_rank_their_own_noun_first(noun):
    rank, score = silhouette_rank(masks(noun, 123), noun)
    assert rank == 1 and score > 0.6


def test_scores_are_ious_and_a_blob_does_not_pass_for_a_chair():
    y, x = np.mgrid[:64, :64]
    blob = np.repeat((((x - 32) ** 2 + (y - 32) ** 2) < 20**2)[None].astype(float), 8, axis=0)
    scores = silhouette_scores(blob)
    assert set(scores) == set(NOUNS) and all(0 <= score <= 1 for score in scores.values())
    rank, _ = silhouette_rank(blob, "chair")
    assert rank > 5
    assert max(silhouette_scores(np.zeros((8, 64, 64))).values()) == 0.0


def test_the_shipped_masks_are_the_drawn_ones():
    for noun in ("mug", "dog"):
        np.testing.assert_array_equal(load_references()[NOUNS.index(noun)], draw_references([noun])[0])
