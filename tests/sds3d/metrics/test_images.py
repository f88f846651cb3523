import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sds3d.errors import ShapeError
from sds3d.metrics.images import BEST_PSNR, colour_strength, psnr, ssim


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.1, 0.9, (3, 24, 20, 3)).astype(np.float32)


def test_psnr_of_a_known_error_and_of_none(pictures: np.ndarray) -> None:
    assert psnr(pictures + 0.1, pictures) == pytest.approx([20.0] * 3, abs=1e-4)  # 10 log10(1 / 0.01)
    assert psnr(pictures, pictures).tolist() == [BEST_PSNR] * 3


def test_psnr_is_skimages(pictures: np.ndarray) -> None:
    other = np.clip(pictures + np.random.default_rng(1).normal(0, 0.05, pictures.shape), 0, 1)
    expected = [peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in zip(pictures, other, strict=True)]
    assert psnr(other, pictures) == pytest.approx(expected, rel=1e-6)


def test_ssim_of_flat_pictures_has_a_closed_form() -> None:
    # Without variance only the term of the means is left: (2 m n + c) / (m^2 + n^2 + c) with c = 0.01^2.
    flat = np.full((1, 16, 16, 3), 0.5), np.full((1, 16, 16, 3), 0.8)
    assert ssim(*flat) == pytest.approx([(2 * 0.5 * 0.8 + 1e-4) / (0.25 + 0.64 + 1e-4)], rel=1e-6)


def test_ssim_is_one_for_equal_and_small_for_unrelated_pictures(pictures: np.ndarray) -> None:
    assert ssim(pictures, pictures) == pytest.approx([1.0] * 3)
    assert (ssim(pictures, pictures[::-1, ::-1])[[0, 2]] < 0.2).all()


def test_ssim_is_wangs_window_and_not_skimages_default(pictures: np.ndarray) -> None:
    other = np.clip(pictures + 0.1 * np.sin(np.arange(20))[:, None], 0, 1)
    default = structural_similarity(pictures[0], other[0], channel_axis=-1, data_range=1.0)
    assert abs(ssim(pictures[:1], other[:1])[0] - default) > 1e-4


def test_colour_strength_of_plain_colours() -> None:
    alpha = np.zeros((1, 4, 4, 1))
    alpha[:, :2] = 1.0
    image = np.full((1, 4, 4, 3), (1.0, 0.0, 0.0))
    image[:, :1] = (0.6, 0.3, 0.3)  # S = 0.5, not clipped; the other covered row has S = 1
    found = colour_strength(image, alpha)
    assert found["saturation"] == pytest.approx(0.75)
    assert found["oversaturated"] == found["clipped"] == pytest.approx(0.5)


def test_grey_has_no_colour_and_an_empty_picture_no_answer() -> None:
    grey, alpha = np.full((2, 4, 4, 3), 0.5), np.ones((2, 4, 4, 1))
    assert colour_strength(grey, alpha) == {"saturation": 0, "oversaturated": 0, "clipped": 0, "colourfulness": 0}
    assert set(colour_strength(grey, 0 * alpha).values()) == {None}


def test_colourfulness_of_two_colours() -> None:
    image = np.zeros((1, 1, 2, 3))
    image[0, 0, 0], image[0, 0, 1] = (1, 0, 0), (0, 0, 1)
    # rg = (255, 0), yb = (127.5, -255): deviations 127.5 and 191.25, means 127.5 and -63.75.
    expected = math.hypot(127.5, 191.25) + 0.3 * math.hypot(127.5, 63.75)
    assert colour_strength(image, np.ones((1, 1, 2, 1)))["colourfulness"] == pytest.approx(expected)


def test_errors_name_the_shapes(pictures: np.ndarray) -> None:
    with pytest.raises(ShapeError, match=r"references has shape \[3, 24, 19, 3\], but \[3, 24, 20, 3\]"):
        psnr(pictures, pictures[:, :, :19])
    with pytest.raises(ShapeError, match="H and W of at least 11"):
        ssim(pictures[:, :10], pictures[:, :10])
