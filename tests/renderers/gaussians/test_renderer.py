"""The renderer: its contract, its checkpoints, its groups, and a whole step on a device without data."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from renderers.gaussians import initialise, parameters
from renderers.gaussians.parameters import GROUPS, Gaussians
from renderers.gaussians.renderer import GaussianRenderer, GaussianSettings
from sds3d.cameras import sample_orbit, turntable
from sds3d.errors import ConfigError, ShapeError

RATES = dict.fromkeys(GROUPS, 1e-2)


def _renderer(count=50, **settings):
    cloud = initialise.shell(count, 0.5, torch.Generator().manual_seed(0), opacity=0.9, colour=(0.8, 0.1, 0.1))
    return GaussianRenderer(cloud, GaussianSettings(**settings))


def test_render_obeys_the_contract():
    renderer, cameras = _renderer(400), turntable(3, 24)
    render = renderer(cameras, torch.tensor([[1.0, 1, 1], [0, 0, 0], [0, 1.0, 0]]))
    assert render.rgb.shape == (3, 24, 24, 3) and render.alpha.shape == (3, 24, 24, 1) and render.normal is None
    corners = render.rgb[:, 0, 0]
    assert torch.equal(corners, torch.tensor([[1.0, 1, 1], [0, 0, 0], [0, 1.0, 0]]))
    assert render.depth[0, 0, 0].item() == 0.0  # nothing there
    # At the middle one looks at the near side of a shell of radius 0.5 from a distance of 2.5.
    assert render.alpha[0, 12, 12].item() > 0.9 and render.depth[0, 12, 12].item() == pytest.approx(2.0, abs=0.15)


def test_normals_of_discs_face_the_camera():
    """One disc in the plane z = 0, seen from above and from below."""
    cloud = Gaussians(
        means=torch.zeros(1, 3),
        quats=torch.tensor([[1.0, 0, 0, 0]]),
        log_scales=torch.tensor([[0.3, 0.3, 0.001]]).log(),
        opacity_logits=torch.tensor([4.0]),
        sh0=torch.zeros(1, 3),
    )
    renderer = GaussianRenderer(cloud, GaussianSettings(normals=True))
    for elevation, sign in ((60.0, 1.0), (-60.0, -1.0)):
        cameras = turntable(2, 16, elevation_deg=elevation)
        render = renderer(cameras, torch.ones(2, 3))
        assert torch.allclose(render.normal[:, 8, 8], torch.tensor([0.0, 0.0, sign]).expand(2, 3), atol=1e-5)
        assert render.rgb.shape[-1] == 3 and render.depth[0, 8, 8].item() == pytest.approx(2.5, abs=0.2)


def test_every_parameter_learns_from_a_picture():
    renderer = _renderer()
    with torch.no_grad():
        renderer.log_scales += 0.3 * torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
    render = renderer(turntable(2, 16), torch.ones(2, 3))
    (render.rgb.square().sum() + render.depth.sum()).backward()
    for name in GROUPS:
        gradient = getattr(renderer, name).grad
        assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0, name


def test_parameter_groups_and_messages():
    renderer = _renderer()
    groups = renderer.parameter_groups(RATES | {"sh0": 0.5})
    assert [g["name"] for g in groups] == list(GROUPS) and groups[-1]["lr"] == 0.5
    assert {id(p) for g in groups for p in g["params"]} == {id(p) for p in renderer.parameters()}
    with pytest.raises(ConfigError, match=r"There is no parameter group 'mean'. Use 'means'"):
        renderer.parameter_groups({"mean": 1.0})
    with pytest.raises(ConfigError, match=r"Learning rates are missing for quats, sh0; every one of"):
        renderer.parameter_groups({"means": 1.0, "log_scales": 1.0, "opacity_logits": 1.0})
    with pytest.raises(ShapeError, match=r"background has shape \[3\], but \[2, 3\] is needed"):
        renderer(turntable(2, 8), torch.ones(3))
    with pytest.raises(ConfigError, match=r"backend is 'cudo', which is unknown"):
        GaussianSettings(backend="cudo")
    with pytest.raises(ConfigError, match=r"needle_ratio is 0.0, but must be above 0"):
        GaussianSettings(needle_ratio=0.0)
    with pytest.raises(ShapeError, match=r"quats has shape \[2, 3\], but \[2, 4\] is needed"):
        Gaussians(**{**vars(parameters.empty(2, torch.zeros(1))), "quats": torch.zeros(2, 3)})


def test_regularisers_are_named_scalars_with_gradients():
    renderer = _renderer()
    with torch.no_grad():
        renderer.means[0] = torch.tensor([2.0, 0, 0])
        renderer.log_scales[1] = torch.tensor([0.5, 0.01, 0.01]).log()
    terms = dict(renderer.regularisers(renderer(turntable(2, 16), torch.ones(2, 3))))
    assert list(terms) == ["opacity", "binary", "variation", "opacity_mean", "scale_mean", "scale", "outside"]
    assert all(term.shape == () and term > 0 and term.requires_grad for term in terms.values())


def test_checkpoint_of_another_count_loads_after_resize():
    large, small = _renderer(70), _renderer(20)
    large.statistics.seen += 3
    with pytest.raises(RuntimeError, match="size mismatch"):
        small.load_state_dict(large.state_dict())
    assert small.resize_(70) is small
    small.load_state_dict(large.state_dict())
    assert small.count == 70 and all(torch.equal(v, large.state_dict()[k]) for k, v in small.state_dict().items())
    background = torch.ones(1, 3)
    assert torch.equal(small(turntable(1, 16), background).rgb, large(turntable(1, 16), background).rgb)
    with pytest.raises(ConfigError, match=r"Gaussian count is 0, but at least 1"):
        small.resize_(0)


def test_a_whole_step_needs_no_data():
    """On the meta device any look at a value fails: this is what would make a GPU wait."""
    renderer = _renderer(normals=True).to("meta")
    cameras = sample_orbit(2, 16, torch.Generator().manual_seed(0)).to("meta")
    optimiser = torch.optim.Adam(renderer.parameter_groups(RATES), foreach=True)
    render = renderer(cameras, torch.ones(2, 3, device="meta"))
    loss = render.rgb.mean() + sum(term for _, term in renderer.regularisers(render))
    loss.backward()
    optimiser.step()
    assert renderer.after_step(7, optimiser, render) == {}
    assert render.normal.shape == (2, 16, 16, 3) and renderer.means.grad.device.type == "meta"


def test_heavy_packages_are_imported_only_where_they_are_used():
    """`kernels` is itself imported only by the first CPU rendering; all else must not need these at import."""
    for source in Path(parameters.__file__).parent.glob("*.py"):
        for node in ast.parse(source.read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {n.split(".")[0] for n in names} & {"numba", "gsplat", "lightning"}, source.name
            assert not any("gaussians.kernels" in n for n in names), source.name
