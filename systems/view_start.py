"""A start from pictures: Gaussians fitted to views of the prompt that the prior draws by itself."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from renderers.gaussians import initialise
from renderers.gaussians.density import DensitySettings
from renderers.gaussians.parameters import GROUPS, Gaussians
from renderers.gaussians.renderer import GaussianRenderer, GaussianSettings
from sds3d.cameras import Cameras, turntable
from sds3d.config import GaussiansConfig, Recipe
from sds3d.priors.base import Prior
from sds3d.priors.sampling import sample_views
from systems.randomness import generator_for

LARGEST_PICTURE = 128
"""Side of the pictures that are fitted, pixels; larger ones are averaged down. A coarse start needs no more."""
VIEWS_A_STEP = 4
NEAR_BACKGROUND = 0.15
"""A pixel whose colour differs so much from the background, in its largest channel, counts as object."""
FAINT = 0.05
"""If no Gaussian of the fit is more opaque than this, there was no object in the pictures."""
OUTSIDE, BINARY = 0.3, 0.05
"""Weights of alpha where there is no object, and of the term "binary", beside the mean absolute error of colours."""


class NoObjectWarning(UserWarning):
    """The pictures a run was to start from show no object."""


def gaussians_from_views(recipe: Recipe, prior: Prior, number: int = 0) -> Gaussians:
    """Return the Gaussians, on the CPU, of a coarse object the prior sees in the prompt of `recipe`.

    Pictures from `init_views` sides, at the mean elevation and distance of training, are drawn by the prior (jointly, if
    it can), and `init_steps` steps fit a ball of Gaussians to them.

    Source: Huang et al. 2024 (PlacidDreamer), which starts BSD from Gaussians reconstructed from generated views.
    Deviation: there a trained network (Latent-Plane) reconstructs; here the prior's own views are fitted photometrically.
    If the pictures show no object, the start is the ball, and a `NoObjectWarning` says so.
    Limits: pictures must show one object on a plain background. A prior that knows neither cameras nor groups of views
    draws views that contradict each other; their fit is blurred, and often thin.
    """
    config, seen = recipe.renderer, recipe.cameras
    assert isinstance(config, GaussiansConfig)
    generator = generator_for(recipe.seed, "prior", number)
    cameras = turntable(
        config.init_views, prior.image_size, sum(seen.elevation_deg) / 2, sum(seen.distance) / 2, seen.fov_deg
    )
    prompt = recipe.prompt.build()
    texts: list[str] | str = prompt.text  # a multi-view prior is told the camera, and was not trained on view words
    if prior.group_views == 1:
        names = prompt.texts("y")
        texts = [names[place] for place in prompt.index(cameras.azimuth_deg, cameras.elevation_deg).tolist()]
    pictures = sample_views(prior, texts, cameras, generator)
    start = initialise.ball(config.count, config.init_radius, generator, opacity=config.init_opacity, colour_std=0.1)
    fitted = fit(start, pictures.to(prior.device), cameras, config.init_steps, generator, config.backend)
    if float(fitted.opacities.detach().max()) < FAINT:
        warnings.warn(
            f"renderer.init is 'views', but the pictures the prior drew of '{prompt.text}' show nothing that differs from "
            "their background, so the run starts from a ball. See them with 'prior sample', or give another prompt.",
            NoObjectWarning,
            stacklevel=2,
        )
        return start
    return Gaussians(**{name: getattr(fitted, name).detach().cpu() for name in GROUPS})


def fit(
    start: Gaussians,
    pictures: Tensor,
    cameras: Cameras,
    steps: int,
    generator: torch.Generator,
    backend: str = "auto",
) -> GaussianRenderer:
    """Return Gaussians that look like `pictures` [K, S, S, 3] in [0, 1] from `cameras` (K), on the device of the pictures.

    The loss is the mean absolute error on each picture's own background (see `background_of`), plus alpha where the
    picture shows background, plus alpha (1 - alpha). Faint Gaussians move to where they are needed.
    """
    device = pictures.device
    size = min(pictures.shape[1], LARGEST_PICTURE)
    pictures = torch.nn.functional.adaptive_avg_pool2d(pictures.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)
    background, cameras = background_of(pictures), cameras.resized(size).to(device)
    is_empty = 1.0 - ((pictures - background[:, None, None]).abs().amax(-1, keepdim=True) / NEAR_BACKGROUND).clamp(
        max=1
    )
    density = DensitySettings(
        mode="relocate",
        start=steps // 10,
        stop=8 * steps // 10,
        every=max(steps // 15, 1),
        min_opacity=0.02,
        seed=int(torch.randint(2**31, (), generator=generator)),
    )
    renderer = GaussianRenderer(start, GaussianSettings(backend=backend, density=density)).to(device)
    rates = GaussiansConfig.LEARNING_RATES
    optimiser = torch.optim.Adam(
        renderer.parameter_groups({name: rate.at(0, steps) for name, rate in rates.items()}),
        betas=(0.9, 0.99),
        eps=1e-15,
    )
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rates[group["name"]].at(step, steps)
        some = torch.randperm(len(cameras), generator=generator)[:VIEWS_A_STEP].to(device)
        render = renderer(cameras[some], background[some])
        outside = (render.alpha * is_empty[some]).mean()
        fog = (render.alpha * (1.0 - render.alpha)).mean()
        loss = (render.rgb - pictures[some]).abs().mean() + OUTSIDE * outside + BINARY * fog
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        renderer.after_step(step, optimiser, render)
    return renderer


def background_of(pictures: Tensor) -> Tensor:
    """Return [K, 3] the median colour of the outermost pixels of each of `pictures` [K, H, W, 3]."""
    rim = [pictures[:, 0], pictures[:, -1], pictures[:, :, 0], pictures[:, :, -1]]
    return torch.cat(rim, dim=1).median(dim=1).values
