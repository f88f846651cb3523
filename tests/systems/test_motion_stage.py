"""Stages that move: what training sees, what is handed over, what a break changes, what is written, what is refused."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from renderers.dynamic import DynamicRenderer
from renderers.gaussians.parameters import Gaussians
from renderers.gaussians.renderer import GaussianRenderer, GaussianSettings
from sds3d.clip_times import frame_times
from sds3d.config import Recipe, load_recipe
from sds3d.errors import ConfigError
from sds3d.guidance.clips import ClipGuidance
from sds3d.guidance.guide import Guidance
from sds3d.priors.video.exact import ExactVideoPrior
from sds3d.run import RunFolder
from systems.base import DistillationSystem
from systems.build import build_renderer, build_system
from systems.clip_views import draw_clip_views
from systems.movement import moving
from systems.moving_files import motion_metrics, write_moving
from systems.randomness import generator_for

SIZE, FRAMES = 12, 4
MOVES = (
    "motion={frames: 4, loop: true, deferred: false, field: {kind: direct, basis: fourier, count: 2}, "
    "similarity: {basis: fourier, count: 2}}"
)


def video_prior(recipe: Recipe, device: torch.device | str = "cpu", config: object = None) -> ExactVideoPrior:
    """Return a prior under which every clip of the prompt is random but fixed colours that change from frame to frame."""
    mean = torch.randn(3, FRAMES, SIZE, SIZE, generator=torch.Generator().manual_seed(5)).clamp(-1, 1)
    prompt = recipe.prompt.build()
    texts = dict.fromkeys((*prompt.texts("y"), prompt.text), mean)
    return ExactVideoPrior({**texts, "": 0 * mean}, std=0.5, rho=0.5)


PLAIN = ("guidance.guidance_scale=1", "prompt.view_dependent=false")


@pytest.fixture
def recipe() -> Recipe:
    keys = (
        MOVES,
        "renderer.count=20",
        f"cameras.size={SIZE}",
        "cameras.views=2",
        "training.steps=6",
        *PLAIN,
        "regularisers={motion_acceleration: 1, motion_length: 0, motion_arap: 1}",
    )
    return load_recipe("quickstart", ["tiny"], keys, {"prompt.text": ("the prompt", "a red robot waving")})


def trained(system: DistillationSystem, steps: int) -> torch.optim.Optimizer:
    optimiser = system.configure_optimizers()
    for _ in range(steps):
        advance(system, optimiser)
    return optimiser


def advance(system: DistillationSystem, optimiser: torch.optim.Optimizer) -> float:
    optimiser.zero_grad()
    loss, _, _ = system.losses(system.steps_done, "cpu")
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    system.steps_done += 1
    return float(loss.detach())


def test_clips_are_seen_from_their_sides_in_turn_and_turned_together(recipe: Recipe) -> None:
    cameras, background = draw_clip_views(recipe, torch.Generator().manual_seed(0), SIZE, 0)
    assert len(cameras) == 2 * FRAMES and background.shape == (2 * FRAMES, 3)
    azimuth = cameras.azimuth_deg.view(2, FRAMES)
    assert (azimuth == azimuth[:, :1]).all() and (azimuth[1, 0] - azimuth[0, 0]) == pytest.approx(90.0)
    assert abs(float(azimuth[0, 0])) <= 10.0 and len({tuple(row) for row in background.tolist()}) == 1
    one = recipe.model_copy(update={"cameras": recipe.cameras.model_copy(update={"views": 1})})
    sides = [draw_clip_views(one, torch.Generator().manual_seed(0), SIZE, step)[0].azimuth_deg[0] for step in range(3)]
    assert sides[1] - sides[0] == pytest.approx(90.0) and sides[2] == sides[0]


def test_a_stage_that_moves_trains_its_motion_and_leaves_the_asset_alone(recipe: Recipe) -> None:
    assert all(name.startswith("motion_") for name in recipe.optimiser.learning_rates)
    system = build_system(recipe, prior_of=video_prior)
    assert isinstance(system.guidance, ClipGuidance) and isinstance(system.renderer, DynamicRenderer)
    before = {name: value.clone() for name, value in system.renderer.state_dict().items()}
    trained(system, 3)
    for name, value in system.renderer.state_dict().items():
        assert torch.equal(value, before[name]) == (not name.startswith("motion.") or "log_scale" in name), name
    report = motion_metrics(system.renderer, recipe)
    assert report["energy"] > 0 and report["frames"] == FRAMES


def test_a_break_in_the_middle_changes_no_bit(recipe: Recipe) -> None:
    whole = build_system(recipe, prior_of=video_prior)
    optimiser = trained(whole, 2)
    state = copy.deepcopy(whole.state(optimiser))  # as a file would: the run goes on in the same tensors
    again = build_system(recipe, state, prior_of=video_prior)
    assert again.steps_done == 2
    resumed = again.configure_optimizers()
    for _ in range(2):
        assert advance(whole, optimiser) == advance(again, resumed)


def test_a_static_stage_hands_over_its_asset_and_a_moving_one_its_motion(recipe: Recipe) -> None:
    still = recipe.model_copy(update={"motion": None})
    static = build_renderer(still)
    first = build_renderer(recipe, before=(static, still))
    assert isinstance(first, DynamicRenderer)
    assert all(torch.equal(v, first.inner.state_dict()[k]) for k, v in static.state_dict().items())
    with torch.no_grad():
        first.motion.similarity.rotation.add_(0.3)
    second = build_renderer(recipe, before=(first, recipe))
    assert isinstance(second, DynamicRenderer)
    assert torch.equal(second.motion.similarity.rotation, first.motion.similarity.rotation)
    assert not isinstance(build_renderer(still, before=(first, recipe)), DynamicRenderer)


def test_pictures_may_judge_frames_beside_clips(recipe: Recipe, use_exact_prior: None) -> None:
    judged = load_recipe(
        "quickstart",
        ["tiny"],
        [MOVES, "renderer.count=20", "cameras.size=16", "cameras.views=1", "training.steps=4"],
        {"prompt.text": ("the prompt", "a red mug")},
    )
    system = build_system(judged)
    assert isinstance(system.guidance, Guidance)
    _, _, render = system.losses(0, "cpu")
    assert render.rgb.shape == (FRAMES, 16, 16, 3)


@pytest.mark.slow
def test_the_yaw_of_a_turning_thing_is_found(recipe: Recipe) -> None:
    """A18: the mean of an exact video prior is a rendered rotation; training finds the angle of every frame."""
    size, frames = 24, 4
    place = torch.tensor([[0.5, 0, 0], [-0.2, 0.4, 0.1], [0, -0.3, 0.4], [-0.3, -0.3, -0.3]])
    colour = torch.tensor([[2.0, -1, -1], [-1, 2.0, -1], [-1, -1, 2.0], [1.5, 1.5, -1]])
    unit = torch.tensor([[1.0, 0, 0, 0]]).expand(4, 4).clone()
    cloud = Gaussians(
        means=place, quats=unit, log_scales=torch.full((4, 3), -1.9), opacity_logits=torch.full((4,), 3.0), sh0=colour
    )
    keys = (
        "motion={frames: 4, field: {kind: still}, similarity: {basis: polynomial, count: 1}, azimuth_jitter_deg: 0}",
        f"cameras={{size: {size}, views: 1, elevation_deg: [30, 30], distance: [2.5, 2.5]}}",
        "background={random_fraction: 0, grey: 1}",
        "training.steps=60",
        "guidance={guidance_scale: 1, t_min: 0.05, t_max: 0.3}",
        "optimiser.learning_rates={motion_rotation: {clock: fraction, points: [[0, 0.05], [1, 0.002]]}, motion_translation: 0.001}",
        "prompt.view_dependent=false",
    )
    wanted = load_recipe("quickstart", ["tiny"], keys, {"prompt.text": ("the prompt", "turn")})
    asset = moving(GaussianRenderer(cloud, GaussianSettings(backend="reference")), wanted, 0)
    cameras, background = draw_clip_views(wanted, generator_for(0, "step"), size, 0)
    yaw = math.radians(40.0)
    with torch.no_grad():
        asset.motion.similarity.rotation[0, 2] = yaw
        mean = 2 * asset(cameras, background, frame_times(frames)).rgb.permute(3, 0, 1, 2) - 1
        side, _ = draw_clip_views(wanted, generator_for(0, "step"), size, 1)
        asset.motion.similarity.rotation.zero_()
    assert side.azimuth_deg[0] == 90.0
    front = wanted.model_copy(update={"motion": wanted.motion.model_copy(update={"azimuths_deg": (0.0,)})})  # type: ignore[union-attr]
    prior = ExactVideoPrior({"turn": mean, "": 0 * mean}, std=0.3, rho=0.5)
    system = DistillationSystem(front, prior, asset)
    optimiser = system.configure_optimizers()
    for step in range(60):
        for group in optimiser.param_groups:
            group["lr"] = system.learning_rates(step)[group["name"]]
        advance(system, optimiser)
    found = asset.at(frame_times(frames)).similarity.rotation
    angles = torch.rad2deg(torch.atan2(found[:, 1, 0], found[:, 0, 0]))
    assert torch.allclose(angles, 40.0 * torch.tensor(frame_times(frames)), atol=5.0)


@pytest.mark.parametrize("kind", ["gaussians", "sketch", "mesh"])
def test_files_of_a_moving_asset(kind: str, recipe: Recipe, tmp_path: Path) -> None:
    made = {"mesh": "renderer={kind: mesh, geometry: fixed, resolution: 8, texture: {kind: vertices}}"}
    keys = [MOVES, made.get(kind, f"renderer={{kind: {kind}, count: 12}}"), "export={size: 24, turntable_views: 4}"]
    wanted = load_recipe("quickstart", ["tiny"], keys, {"prompt.text": ("the prompt", "a robot waving")})
    asset = build_renderer(wanted)
    assert isinstance(asset, DynamicRenderer)
    with torch.no_grad():
        for parameter in asset.motion.parameters():
            parameter.add_(0.05)
    formats = {"gaussians": ("ply", "mp4", "png"), "mesh": ("glb",), "sketch": ("json", "svg", "html", "glb", "gif")}[
        kind
    ]
    files = write_moving(asset, wanted, RunFolder(tmp_path), formats)
    names = {file.name for file in files}
    assert all(file.is_file() for file in files)  # the command line lists them with their sizes
    if kind == "gaussians":
        assert {
            "splats.ply",
            "sequence.json",
            "moving.splatv",
            "turntable.mp4",
            "clip.mp4",
            "contact.png",
            "clip.png",
        } == names
        facts = json.loads((tmp_path / "export" / "splats" / "sequence.json").read_text())
        assert len(facts["frames"]) == FRAMES and facts["loop"] and facts["count"] == 12
        import av

        with av.open(str(tmp_path / "export" / "clip.mp4")) as film:
            assert sum(1 for _ in film.decode(video=0)) >= FRAMES
        return
    if kind == "mesh":
        import pygltflib

        file = pygltflib.GLTF2().load(str(tmp_path / "export" / "moving.glb"))
        assert {"mesh.glb", "moving.glb"} == names and len(file.animations) == 1
        assert len(file.meshes[0].primitives[0].targets) >= 2  # frames that deform alike in this short clip have none
        return
    assert {"sketch.json", "sketch.html", "mesh.glb", "moving.glb", "clip.gif", "moving.svg", "front.svg"} <= names
    from sds3d.export.sketch.json import read_json

    sketch = read_json(tmp_path / "export" / "sketch.json")
    assert sketch.frames == FRAMES and sketch.motion is not None and sketch.motion.is_loop
    moved = asset.at(frame_times(FRAMES, True)).points.detach()
    shown = torch.tensor(sketch.points_at(2)).flatten(0, 1).float()
    assert (moved[2] - shown).abs().max() < 1e-4
    assert "<animate" in (tmp_path / "export" / "moving.svg").read_text()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("motion={frames: 1}",), r"motion\.frames.*\[2, 1000\]"),
        ((MOVES, "optimiser.learning_rates.motion_turn=0.1"), "motion_rotation"),
        ((MOVES, "regularisers.motion_velocty=1"), "motion_velocity"),
        (("regularisers.motion_velocity=1",), "regularisers.motion_velocity"),
        ((MOVES, "motion.azimuths_deg=[400]"), "azimuths_deg"),
        ((MOVES, "renderer.kind=nerf"), r"kind 'nerf' has no points.*gaussians, mesh or sketch"),
        ((MOVES, "renderer.kind=mesh"), r"triangles and colours must belong to it.*fixed or offsets"),
    ],
)
def test_wrong_keys_are_named(keys: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("quickstart", ["tiny"], keys, {"prompt.text": ("the prompt", "a mug")})


def test_priors_that_do_not_fit_are_refused(recipe: Recipe) -> None:
    with pytest.raises(ConfigError, match=r"judges clips, but in this stage nothing moves.*'motion'"):
        build_system(recipe.model_copy(update={"motion": None}), prior_of=video_prior)
    longer = recipe.model_copy(update={"motion": recipe.motion.model_copy(update={"frames": 9})})  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"9 frames, but the video prior 'exact' takes .* to 4"):
        build_system(longer, prior_of=video_prior)


@pytest.mark.parametrize("kind", ["gaussians", "sketch"])
def test_deferred_back_propagation_is_the_full_one(kind: str, recipe: Recipe) -> None:
    """A19: drawing each frame again for its gradient changes no bit."""
    keys = (MOVES, f"renderer={{kind: {kind}, count: 12}}", f"cameras={{size: {SIZE}, views: 2}}", *PLAIN)
    recipe = load_recipe("quickstart", ["tiny"], keys, {"prompt.text": ("the prompt", "a red robot waving")})
    gradients: list[Callable[[], list[torch.Tensor]]] = []
    for deferred in (False, True):
        changed = recipe.motion.model_copy(update={"deferred": deferred})  # type: ignore[union-attr]
        system = build_system(recipe.model_copy(update={"motion": changed}), prior_of=video_prior)
        with torch.no_grad():
            for parameter in system.renderer.motion.parameters():  # type: ignore[union-attr]
                parameter.add_(0.05)
        system.losses(0, "cpu")[0].backward()  # type: ignore[no-untyped-call]
        gradients.append([p.grad for p in system.renderer.parameters() if p.grad is not None])  # type: ignore[arg-type]
    assert gradients[0] and all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.parametrize("name", ["4doodle", "livesketch"])
def test_the_shipped_recipes_are_whole_with_and_without_tiny(name: str) -> None:
    given = {"prompt.text": ("the prompt", "a robot waving")}
    (_, still), (_, moves) = load_recipe(name, (), (), given).plan()
    assert still.motion is None and moves.motion is not None and moves.prior.path == "modelscope"
    assert still.prompt.text == "a robot waving"  # only the bundled prior has never heard of waving
    (_, still), (_, moves) = load_recipe(name, ["tiny"], (), given).plan()
    told = {"4doodle": ("a blue robot", "a blue robot waving"), "livesketch": ("a robot", "a robot waving")}
    assert (still.prompt.text, moves.prompt.text) == told[name]  # black ink needs no colour
    assert (still.prior.path, moves.prior.path) == ("toybox", "toybox-clips")
    assert moves.motion is not None and moves.motion.frames == 8
