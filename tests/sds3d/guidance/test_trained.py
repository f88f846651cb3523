"""The trained score network: what its loss reaches, what it converges to, its two forms (T9, T10, T11)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sds3d.cameras import turntable
from sds3d.errors import ConfigError
from sds3d.guidance.branches import Clock, Draws
from sds3d.guidance.guide import Guidance
from sds3d.guidance.methods import METHODS
from sds3d.guidance.score_training import score_loss
from sds3d.guidance.words import Words
from sds3d.priors.base import Prior, Query
from sds3d.priors.exact import ExactPrior, Mixture
from sds3d.priors.gaussian_score import GaussianScoreNetwork
from sds3d.prompts import Prompt

SHAPE = (3, 4, 4)
PLAIN = Prompt(text="y", view_dependent=False)
TRAINED = [name for name, row in METHODS.items() if row.trains]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gaussians(std: float = 0.5, y: float = 0.7, null: float = 0.7) -> ExactPrior:
    return ExactPrior({t: Mixture.gaussian(torch.full(SHAPE, m), std) for t, m in (("y", y), ("", null))})


def guide_of(name: str, prior: Prior, score: dict[str, Any] | None = None, **settings: Any) -> Guidance:
    config = METHODS[name].config.model_validate({**settings, "score": score or {}})
    network = prior.score_network(4, torch.Generator().manual_seed(1))
    return Guidance(prior, config, 10, {"psi": network})


@pytest.mark.parametrize("name", TRAINED)
def test_each_loss_reaches_its_own_parameters_only(name: str) -> None:
    """T9: the gradient of the asset does not depend on psi's training loss, nor psi's on the asset's loss."""
    prior, cameras = gaussians(), turntable(2, 4)
    results = []
    for weight in (1.0, 0.0, 5.0):
        guide = guide_of(name, prior, {"weight": weight, "camera_dropout": 0})
        rgb = torch.rand(2, 4, 4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
        loss, logs = guide(rgb, PLAIN, cameras, 3, torch.Generator().manual_seed(5))
        loss.backward()
        network = guide.score
        assert network is not None and rgb.grad is not None and logs["score_loss"] > 0
        results.append((rgb.grad, torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])))
    (asset, psi), (asset_alone, nothing), (asset_again, more) = results
    assert torch.equal(asset, asset_alone) and torch.equal(asset, asset_again) and asset.abs().max() > 0
    assert nothing.abs().max() == 0 and psi.abs().max() > 0
    torch.testing.assert_close(more, 5.0 * psi)


def test_training_does_not_reach_the_render() -> None:
    guide, z0 = guide_of("vsd", gaussians()), draw(2, *SHAPE).requires_grad_()
    words = Words(guide.prior, PLAIN, turntable(2, 4))
    assert guide.score is not None
    loss, _ = score_loss(guide.score, guide.prior, guide.config, z0.detach(), words, Clock(0, 10), torch.Generator())
    loss.backward()
    assert z0.grad is None


def test_the_training_loss_is_smallest_at_the_renders_own_distribution() -> None:
    """psi learns mean and spread of a cloud of pictures; times are drawn from the whole axis."""
    prior = gaussians()
    guide = guide_of("vsd", prior, {"camera_dropout": 1.0})
    network = guide.score
    assert isinstance(network, GaussianScoreNetwork)
    cloud = 0.4 + 0.3 * draw(256, *SHAPE, seed=3)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.03)
    random = torch.Generator().manual_seed(0)
    words = Words(prior, PLAIN, turntable(256, 4))
    for _ in range(150):
        loss, _ = score_loss(network, prior, guide.config, cloud, words, Clock(0, 10), random)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert network.mean.mean().item() == pytest.approx(0.4, abs=0.05)
    assert network.log_spread.exp().item() == pytest.approx(0.3, abs=0.05)
    assert network.camera.grad is None or network.camera.grad.abs().max() == 0, "the camera is hidden from all"


def test_cameras_are_hidden_from_single_samples() -> None:
    """With a dropout of 0.5 some samples know their camera and some do not, in one batch."""
    prior = gaussians()
    seen: list[Query] = []

    class Spy(GaussianScoreNetwork):
        def output(self, queries: Any) -> list[Tensor]:
            seen.extend(queries)
            return super().output(queries)

    config = METHODS["vsd"].config.model_validate({"score": {"camera_dropout": 0.5}})
    words = Words(prior, PLAIN, turntable(64, 4))
    score_loss(
        Spy(prior, SHAPE), prior, config, draw(64, *SHAPE), words, Clock(0, 10), torch.Generator().manual_seed(0)
    )
    pose = seen[0].pose
    assert pose is not None
    hidden = (pose == 0).all(dim=1)
    assert 16 < hidden.sum() < 48
    assert torch.equal(pose[~hidden], words.poses[~hidden]), "nothing else is changed, and not in place"
    assert seen[0].t.min() < 100 and seen[0].t.max() > 900, "the whole time axis, whatever the window"


def test_the_adversarial_loss_adds_a_push_away_from_the_prompt() -> None:
    prior, words = gaussians(), Words(gaussians(), PLAIN, turntable(8, 4))
    z0 = draw(8, *SHAPE)
    values = {}
    for weight in (0.0, -0.75, 0.5):
        config = METHODS["adversarial"].config.model_validate({"adversarial_weight": weight})
        network = GaussianScoreNetwork(prior, SHAPE)
        values[weight] = score_loss(network, prior, config, z0, words, Clock(0, 1), torch.Generator().manual_seed(0))[
            0
        ].item()
    assert values[-0.75] < values[0.0] < values[0.5]
    assert (values[0.0] - values[-0.75]) / 0.75 == pytest.approx((values[0.5] - values[0.0]) / 0.5, rel=1e-4)


# --- T10: what particles converge to --------------------------------------------------------------------------------


def cloud_after(name: str, prior: ExactPrior, steps: int = 250, **settings: Any) -> Tensor:
    """Descend 400 particles with a Gaussian psi refitted to them at every step, as an optimal network would be."""
    config = METHODS[name].config.model_validate({"weight": "kl", **settings})
    z0 = draw(400, *SHAPE, seed=4)
    network = GaussianScoreNetwork(prior, SHAPE)
    guide = Guidance(prior, config, steps, {"psi": network.predict} if METHODS[name].trains else None)
    random = torch.Generator().manual_seed(6)
    for step in range(steps):
        with torch.no_grad():
            network.mean.copy_(z0.mean(dim=0))
            network.log_spread.copy_((z0 - z0.mean(dim=0)).std().log())
        drawn = guide.draw(z0, step, random)
        draws = Draws(t=drawn.t.clamp(200, 600), epsilon=drawn.epsilon, uniform=drawn.uniform)
        rate = 0.2 if step < 0.7 * steps else 0.05
        z0 = z0 - rate * guide.gradient(z0, PLAIN, turntable(400, 4), step, draws)[0].clamp(-2, 2)
    return z0


def test_vsd_particles_sample_the_prior_and_sds_particles_seek_its_mode() -> None:
    prior = gaussians()
    vsd, sds = cloud_after("vsd", prior, guidance_scale=1), cloud_after("sds", prior, guidance_scale=1)
    assert vsd.mean().item() == pytest.approx(0.7, abs=0.03) and vsd.std().item() == pytest.approx(0.5, abs=0.04)
    assert sds.mean().item() == pytest.approx(0.7, abs=0.03) and sds.std().item() < 0.2


def test_dsd_particles_have_the_sharpened_mean() -> None:
    """T14: mean m_0 + (1 + r)(m_y - m_0) with r = unconditional / variational, and the prior's spread."""
    prior = gaussians(null=-0.2)
    cloud = cloud_after("dsd", prior, unconditional=0.5, variational=1.0)
    assert cloud.mean().item() == pytest.approx(-0.2 + 1.5 * 0.9, abs=0.06)
    assert cloud.std().item() == pytest.approx(0.5, abs=0.05)


# --- the low-rank adapter on a real UNet: T9, T11 -------------------------------------------------------------------


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that writes a tiny diffusers folder (see tests/sds3d/priors/conftest.py)."""
    import importlib.util

    source = Path(__file__).parents[1] / "priors" / "conftest.py"
    spec = importlib.util.spec_from_file_location("prior_folders", source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: dict[tuple[Any, ...], Path] = {}

    def make(*arguments: Any) -> Path:
        if arguments not in made:
            made[arguments] = module.make_folder(tmp_path_factory.mktemp("prior") / "tiny", *arguments)
        return made[arguments]

    return make


def asked(prior: Any, batch: int = 3, pose: bool = True) -> Query:
    cameras = turntable(batch, 32)
    words = Words(prior, Prompt(text="a red mug", view_dependent=False), cameras)
    text = prior.text(["a red mug"] * batch)
    return Query(
        z_t=draw(batch, 4, 8, 8, seed=1),
        t=torch.tensor([20, 500, 980])[:batch],
        text=text,
        camera=words.features,
        pose=words.poses if pose else None,
    )


def train_a_little(network: Any, steps: int = 3) -> None:
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.02)
    for _ in range(steps):
        (output,) = network.output([asked(network.prior)])
        optimiser.zero_grad()
        (output - 1.0).square().mean().backward()
        optimiser.step()


@pytest.mark.parametrize("camera", ["fourier", None])
def test_the_adapter_starts_as_the_prior_and_never_changes_it(camera: str | None, folders: Callable[..., Path]) -> None:
    """T9: base predictions are the same bits whatever psi has learned; psi's all receive gradients."""
    from sds3d.priors.latent_diffusion import LatentDiffusionPrior

    prior = LatentDiffusionPrior.from_folder(folders("v_prediction", "tiny", camera))
    query = asked(prior)
    before = prior.predict([query])[0]
    network: Any = prior.score_network(4, torch.Generator().manual_seed(0))
    assert torch.equal(network.predict([query])[0], before), "psi equals its prior before training"
    train_a_little(network)
    assert torch.equal(prior.predict([query])[0], before)
    assert (network.predict([query])[0] - before).abs().max() > 1e-3
    assert all(p.grad is None for p in prior.unet.parameters())
    assert all(p.grad is not None and p.dtype == torch.float32 for p in network.parameters())
    assert len(network.names) == len(network.adapters) >= 8


def test_psi_hears_the_camera_even_if_the_prior_does_not(folders: Callable[..., Path]) -> None:
    from sds3d.priors.latent_diffusion import LatentDiffusionPrior

    prior = LatentDiffusionPrior.from_folder(folders("v_prediction", "tiny", None))
    network: Any = prior.score_network(4, torch.Generator().manual_seed(0))
    train_a_little(network)
    seen, blind = network.predict([asked(prior), asked(prior, pose=False)])
    assert (seen - blind).abs().max() > 1e-4
    together = network.predict([asked(prior)])[0]
    torch.testing.assert_close(together, seen, atol=1e-5, rtol=1e-5)


def test_v_and_epsilon_networks_say_the_same(folders: Callable[..., Path]) -> None:
    """T11: one set of weights read as v or as epsilon: psi's noise prediction follows the conversion."""
    from sds3d.priors.latent_diffusion import LatentDiffusionPrior

    prior = LatentDiffusionPrior.from_folder(folders("v_prediction", "tiny", None))
    network: Any = prior.score_network(4, torch.Generator().manual_seed(0))
    train_a_little(network)
    query = asked(prior)
    with torch.no_grad():
        (output,) = network.output([query])
    alpha, sigma = prior.alpha_sigma(query.t)
    as_v = network.predict([query])[0]
    torch.testing.assert_close(as_v, alpha * output + sigma * query.z_t)
    network.parametrisation = "epsilon"
    torch.testing.assert_close(network.predict([query])[0], output)


def test_networks_of_one_prior_do_not_mix(folders: Callable[..., Path]) -> None:
    from sds3d.priors.latent_diffusion import LatentDiffusionPrior

    prior = LatentDiffusionPrior.from_folder(folders("v_prediction", "tiny", None))
    first: Any = prior.score_network(4, torch.Generator().manual_seed(0))
    second: Any = prior.score_network(4, torch.Generator().manual_seed(0))
    query = asked(prior)
    train_a_little(first)
    assert torch.equal(second.predict([query])[0], prior.predict([query])[0])
    assert first.state_dict().keys() == second.state_dict().keys()
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.predict([query])[0], first.predict([query])[0])


def test_a_prior_that_cannot_be_trained_says_so() -> None:
    class Frozen(ExactPrior):
        score_network = Prior.score_network

    prior = Frozen({"y": Mixture.gaussian(torch.zeros(SHAPE), 1.0)})
    with pytest.raises(ConfigError, match=r"kind Frozen cannot train a score network.*guidance.method=sds"):
        prior.score_network(4, torch.Generator())
