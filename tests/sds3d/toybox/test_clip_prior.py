"""The toybox as a closed-form video prior: exact answers, words, cameras."""

from types import SimpleNamespace

import pytest
import torch

from sds3d.cameras import turntable
from sds3d.errors import ConfigError
from sds3d.priors.base import Query
from sds3d.priors.noise_levels import variance_preserving
from sds3d.toybox.clip_prior import UNTOLD, ToyClipPrior, read
from sds3d.toybox.motion_words import INKS, with_colour, without_motion
from sds3d.toybox.motions import MOTIONS
from sds3d.toybox.palette import COLORS, NOUNS, is_held_out


class Shrink:
    """An autoencoder of which everything is known: latents are pixels, averaged over 16 x 16."""

    dtype, config = torch.float32, {"scaling_factor": 1.0, "block_out_channels": [1] * 5}

    def named_buffers(self):
        return ()

    def encode(self, images):
        return SimpleNamespace(latents=torch.nn.functional.avg_pool2d(images, 16))

    def decode(self, latents):
        return SimpleNamespace(sample=torch.nn.functional.interpolate(latents, scale_factor=16))


@pytest.fixture(scope="module")
def prior():
    return ToyClipPrior(Shrink(), variance_preserving(), std=0.3)


def asked(prior, text, t, z=None):
    z = torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(3)) if z is None else z
    camera = prior.camera_features(turntable(1, 64, elevation_deg=15.0))
    return Query(z_t=z, t=torch.tensor([t]), text=prior.text([text]), camera=camera)


def test_the_prediction_is_the_score_of_the_mixture(prior):
    query = asked(prior, "a red robot waving", 400)
    predicted = prior.predict([query])[0]
    clips = next(iter(prior._clips.values())).double()
    alpha, sigma = (x.double() for x in prior.alpha_sigma(query.t))
    z = query.z_t.double().requires_grad_()
    spread = alpha**2 * 0.3**2 + sigma**2
    log_density = (-0.5 * ((z - alpha * clips).square() / spread).sum(dim=(1, 2, 3, 4))).logsumexp(0)
    (score,) = torch.autograd.grad(log_density, z)
    assert torch.allclose(predicted.double(), -sigma * score, atol=1e-4)


def test_distillation_is_at_rest_on_a_clip_and_words_matter(prior):
    query = asked(prior, "a red robot waving", 300)
    clip = prior._library(read("a red robot waving"), tuple(query.camera[0].tolist()), 4)[:1]
    alpha, sigma = prior.alpha_sigma(query.t)
    noise = torch.randn(clip.shape, generator=torch.Generator().manual_seed(1))
    told = [asked(prior, text, 300, alpha * clip + sigma * noise) for text in ("a red robot waving", "a blue car")]
    right, wrong = ((found - noise).square().mean() for found in prior.predict(told))
    assert right < 0.2 * wrong


def test_frame_0_rests_and_the_others_move(prior):
    view = tuple(asked(prior, "", 1).camera[0].tolist())
    moving, still = (prior._library(read(text), view, 4) for text in ("a red robot waving", "a red robot"))
    assert (still - still[:, :, :1]).abs().max() == 0.0
    assert (moving - moving[:, :, :1]).abs().amax(dim=(0, 1, 3, 4))[1:].min() > 0.05
    assert len(prior._clips) >= 2


def test_a_hidden_camera_means_one_usual_view(prior):
    query = asked(prior, "a red robot", 300)
    told = Query(z_t=query.z_t, t=query.t, text=query.text, camera=torch.tensor([UNTOLD]))
    hidden = Query(z_t=query.z_t, t=query.t, text=query.text)
    assert torch.equal(prior.predict([told])[0], prior.predict([hidden])[0])
    assert not torch.equal(prior.predict([query])[0], prior.predict([hidden])[0])


def test_words_are_places_in_the_toybox():
    robot, red, wave = NOUNS.index("robot"), list(COLORS).index("red"), list(MOTIONS).index("wave")
    assert read("A red robot waving, front view") == (robot, red, wave)
    assert read("a robot flapping its wings")[2] == -1  # robots have none
    assert read("something") == (-1, -1, -1)
    assert without_motion("a red robot Waving, front view") == "a red robot, front view"
    flap = list(MOTIONS).index("flap")
    assert read("a duck flapping its wings")[2] == read("a duck flapping")[2] == flap
    assert without_motion("a duck flapping") == without_motion("a duck flapping its wings") == "a duck"
    assert without_motion("a rocket taking pictures") == "a rocket taking pictures"


@pytest.mark.parametrize(
    ("text", "seed", "expected"),
    [
        ("a robot waving", 0, "a blue robot waving"),  # red robots are held out from the prior's training
        ("a robot waving", 4, "a brown robot waving"),
        ("A tall robot", 3, "A tall orange robot"),
        ("an airplane flying", 0, "a red airplane flying"),
        ("a Duck", 0, "a red Duck"),
        ("a red robot", 1, "a red robot"),
        ("a robot with a mug", 0, "a robot with a mug"),
        ("something", 0, "something"),
    ],
)
def test_a_thing_without_a_colour_is_given_one(text, seed, expected):
    assert with_colour(text, seed) == expected


def test_every_noun_gets_colours_that_the_prior_saw_with_it():
    for noun in NOUNS:
        for seed in range(len(INKS)):
            colour = with_colour(f"a {noun}", seed).split()[1]
            assert colour in INKS and not is_held_out(noun, colour)


def test_an_unknown_thing_is_the_standard_normal_and_long_clips_are_refused(prior):
    query = asked(prior, "", 500)
    alpha, sigma = prior.alpha_sigma(query.t)
    assert torch.allclose(prior.predict([query])[0], sigma * query.z_t / (alpha**2 + sigma**2), atol=1e-5)
    with pytest.raises(ConfigError, match=r"clip has 1 frame.*from 2 to 64"):
        prior.check_clip(torch.zeros(1, 1, 8, 8, 3))
    with pytest.raises(ConfigError, match="std of the clips is 0"):
        ToyClipPrior(Shrink(), variance_preserving(), std=0.0)
