"""The whole of `launch.py prior train`, small: from nothing to folders that load, then further from what it wrote."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sds3d.cameras import turntable
from sds3d.doctor import wrong_checksums
from sds3d.metrics.silhouette import SHIPPED
from sds3d.priors.folder import check_folder
from sds3d.toybox.dataset import SetConfig
from sds3d.toybox.judge import load_judge
from sds3d.toybox.training import PriorConfig, train

SMALL = SetConfig(objects=24, views=2, seed=11)
CONFIG = PriorConfig(
    train=SMALL,
    validation=SetConfig(objects=24, views=1, seed=12),
    held_out=SetConfig(objects=24, views=1, seed=13, pairs="held-out"),
    judge_extra=SetConfig(objects=24, views=1, seed=14, pairs="held-out"),
    autoencoder_steps=1,
    diffusion_steps=8,  # the averaged weights move every fourth step
    judge_steps=1,
)


@pytest.mark.slow
def test_prior_train_writes_a_prior_and_a_judge_that_load_and_can_be_trained_further(tmp_path):
    from sds3d.priors.latent_diffusion import LatentDiffusionPrior
    from sds3d.priors.sampling import sample_latents

    first = tmp_path / "one" / "priors" / "toybox"
    train(first, tmp_path / "work", CONFIG)
    assert check_folder(first).metadata.image_size == 64 and not wrong_checksums(first)
    assert len((first / "SHA256SUMS").read_text().splitlines()) >= 9
    prior = LatentDiffusionPrior.from_folder(first)
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    images = prior.decode(sample_latents(prior, noise, "a red mug", turntable(2, 64), steps=2))
    assert images.shape == (2, 64, 64, 3) and images.isfinite().all()
    verdict = load_judge(tmp_path / "one" / "judge").verdict(images.clamp(0, 1))
    assert verdict["noun"].shape == (2,) and (tmp_path / "one" / "judge" / SHIPPED).is_file()

    second = tmp_path / "two" / "priors" / "toybox"
    train(second, tmp_path / "more", CONFIG, start=first)
    further = LatentDiffusionPrior.from_folder(second)
    before, after = (dict(p.unet.named_parameters()) for p in (prior, further))
    change = [float((after[name] - before[name]).abs().max()) for name in before]
    assert 0 < np.max(change) < 0.05  # trained on, not begun anew
    kept = [load_file(folder / "vae" / "diffusion_pytorch_model.safetensors") for folder in (first, second)]
    assert all(torch.equal(weight, kept[1][name]) for name, weight in kept[0].items())  # the autoencoder stays
