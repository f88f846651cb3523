"""B4 and B6: objects taken out of a clip by their boxes, masks, depth and flow."""

from __future__ import annotations

import pytest
import torch

from renderers.motion import similarity as sim
from renderers.motion.decompose import box_of, decompose, lift, place_in_box, relative_depth
from renderers.motion.flow import image_places
from sds3d.cameras import orbit
from sds3d.errors import ConfigError, ShapeError

SIZE, FRAMES = 64, 5


def cameras_of(count, step_deg=6.0):
    full = torch.ones(count)
    return orbit(torch.arange(count) * step_deg, 10.0 * full, 4.0 * full, 45.0, SIZE, SIZE)


def rays_of(camera):
    """Return the directions [H, W, 3] in the camera, z = 1."""
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)], dim=-1).double() @ torch.linalg.inv(camera.intrinsics[0].double()).T


@pytest.mark.parametrize("place", [(0.0, 0.0), (0.6, -0.4), (-0.9, 0.8)])
def test_a_sphere_anywhere_on_a_plane_is_put_where_its_box_is(place):
    """B4: the middle of its box is where its middle is seen, within half a pixel."""
    camera, depth, radius = cameras_of(1), 4.0, 0.25
    rays = rays_of(camera)
    middle = torch.tensor([*place, depth]).double()  # in the camera
    along = (rays * middle).sum(dim=-1) ** 2
    mask = along >= rays.square().sum(dim=-1) * (middle.square().sum() - radius**2)
    found = place_in_box(box_of(mask), depth, camera)
    pose = camera.cam_to_world[0].double()
    wanted = pose[:3, :3] @ middle + pose[:3, 3]
    seen = image_places(torch.stack([found.double(), wanted]), camera)[0]
    assert (seen[0] - seen[1]).norm() < 0.5
    axis = pose[:3, 2]
    assert float((found.double() - wanted) @ axis) == pytest.approx(0.0, abs=1e-5)  # it stays on the plane


def test_lifting_undoes_projecting():
    camera = cameras_of(3)[2:3]
    points = 0.5 * torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = camera.world_to_cam[0].double()
    depths = points @ matrix[2, :3] + matrix[2, 3]
    assert torch.allclose(lift(image_places(points, camera)[0], depths, camera), points, atol=1e-5)


class Sheet:
    """A flat object, u and v in [-1, 1], that bends in its own plane, turns, grows and travels."""

    def __init__(self, centre, seed):
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
        times = torch.linspace(0, 1, FRAMES, dtype=torch.float64)
        self.corners = torch.tensor(centre).double() + 0.35 * torch.tensor([[0, 0, 0], [0, 1, 0], [0, 0, 1]]).double()
        grid = torch.cartesian_prod(*(torch.linspace(-1, 1, 9, dtype=torch.float64),) * 2)
        self.rest = self.at(self.corners, grid)
        self.grid, middle = grid, self.rest.mean(dim=0)
        stretch = 0.12 * draw(2, 2)
        plane = (self.rest - middle)[:, 1:] @ (stretch + stretch.T)
        bend = torch.cat([torch.zeros_like(plane[:, :1]), plane], dim=1)
        offsets = sim.gauge_project(times[:, None, None] * bend, self.rest, True)
        vector = times[:, None] * 0.25 * draw(3)
        turn, quaternion = sim.rotation_from_vector(vector), sim.quaternion_from_vector(vector)
        whole = sim.Similarity((0.1 * times).exp(), turn, quaternion, times[:, None] * 0.12 * draw(3))
        self.path = sim.move(self.rest, offsets, whole, middle)  # affine in u and v

    @staticmethod
    def at(corners, uv):
        return corners[0] + uv[..., :1] * (corners[1] - corners[0]) + uv[..., 1:] * (corners[2] - corners[0])

    def affine(self, frame):
        """Return [3, 3]: columns along u, along v, and the middle, in the world."""
        design = torch.cat([self.grid, torch.ones_like(self.grid[:, :1])], dim=1)
        return torch.linalg.lstsq(design, self.path[frame]).solution.T


def film(sheet, cameras):
    """Return masks, depths [F, H, W] and flows [F - 1, H, W, 2], exact at the middle of every pixel."""
    masks, depths, flows, uvs = [], [], [], []
    for frame in range(FRAMES):
        camera = cameras[frame : frame + 1]
        matrix = camera.world_to_cam[0].double()
        place = matrix[:3, :3] @ sheet.affine(frame) + torch.outer(matrix[:3, 3], torch.tensor([0.0, 0, 1]).double())
        to_image = camera.intrinsics[0].double() @ place
        uvw = rays_of(camera) @ torch.linalg.inv(place).T
        depths.append(1.0 / uvw[..., 2])
        uv = uvw[..., :2] / uvw[..., 2:]
        masks.append(((uv.abs() <= 1).all(dim=-1)).double())
        if frame:
            image = torch.cat([uvs[-1], torch.ones_like(uv[..., :1])], dim=-1) @ to_image.T
            x = torch.arange(SIZE).double() + 0.5
            here = torch.stack(torch.meshgrid(x, x, indexing="xy"), dim=-1)
            flows.append(image[..., :2] / image[..., 2:] - here)
        uvs.append(uv)
    return torch.stack(masks), torch.stack(depths), torch.stack(flows)


def test_two_objects_are_recomposed_from_masks_depth_and_flow():
    """B6: tracks within a pixel, depths in order, with a camera that moves on a known path."""
    cameras = cameras_of(FRAMES)
    sheets = [Sheet((0.9, -0.5, 0.1), 1), Sheet((-0.4, 0.5, -0.1), 2)]
    films = [film(sheet, cameras) for sheet in sheets]
    assert not any((films[0][0][f] * films[1][0][f]).any() for f in range(FRAMES))  # the scene hides nothing
    middles = []
    for sheet, (masks, depths, flows) in zip(sheets, films, strict=True):
        rest, found = decompose(masks, depths, flows, cameras)
        path = sim.move(rest, found.offsets, found.similarity, found.centre)
        design = torch.linalg.inv(sheet.affine(0))
        uv = path[0] @ design.T  # (u, v, 1) of each followed point
        for frame in range(FRAMES):
            true = uv @ sheet.affine(frame).T
            seen = [image_places(points, cameras[frame : frame + 1])[0] for points in (path[frame], true)]
            assert (seen[0] - seen[1]).norm(dim=1).mean() < 0.05 and (seen[0] - seen[1]).norm(dim=1).max() < 1.0
        truth = sim.factorise(sheet.path, sheet.rest, True).similarity
        turned = (found.similarity.rotation[-1].T @ truth.rotation[-1]).diagonal().sum()
        assert torch.rad2deg(torch.acos(((turned - 1) / 2).clamp(max=1))) < 2.0
        assert float(found.similarity.scale[-1]) == pytest.approx(float(truth.scale[-1]), rel=0.03)
        middles.append(float(depths[0][masks[0] > 0.5].median()))
    assert middles[0] < middles[1]  # the first stands nearer


@pytest.mark.parametrize("factor", [0.7, 0.9, 1.234])
def test_the_sweep_finds_the_relative_depth_of_two_discs(factor):
    """B3, second half: within one step, from a depth that is known up to scale and shift."""
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    centres, radius = ((14.0, 24.0), (34.0, 24.0)), 9.0
    shares = [((x - cx) ** 2 + (y - cy) ** 2) / radius**2 for cx, cy in centres]
    masks = torch.stack([(share <= 1).float() for share in shares])
    depths = torch.stack([3.0 + 0.4 * share.clamp(max=1) for share in shares])  # bowls: they have relief
    true = depths * torch.tensor([factor, 1.0])[:, None, None]
    known = 0.2 + 0.05 * torch.where(masks[0] > 0.5, true[0], true[1])
    found = relative_depth(depths, masks, known)
    assert abs(float(found[0]) - factor) <= 0.00085 and float(found[1]) == 1.0


def test_a_wrong_camera_path_is_noticed():
    """Without the camera's motion the object gets it: the split needs the path."""
    cameras = cameras_of(FRAMES)
    masks, depths, flows = film(Sheet((0.0, 0.0, 0.0), 3), cameras)
    right = decompose(masks, depths, flows, cameras).motion.similarity.rotation[-1]
    wrong = decompose(masks, depths, flows, cameras_of(FRAMES, 0.0)).motion.similarity.rotation[-1]
    turned = (right.T @ wrong).diagonal().sum()
    assert float(torch.rad2deg(torch.acos(((turned - 1) / 2).clamp(max=1)))) == pytest.approx(24.0, abs=2.0)


def test_what_cannot_be_followed_is_refused():
    cameras = cameras_of(FRAMES)
    masks, depths, flows = film(Sheet((0.0, 0.0, 0.0), 3), cameras)
    with pytest.raises(ConfigError, match="mask of an object is empty"):
        box_of(torch.zeros(8, 8))
    with pytest.raises(ConfigError, match="0 points of the object are seen in every frame"):
        decompose(torch.cat([masks[:4], 0 * masks[4:]]), depths, flows, cameras)
    with pytest.raises(ShapeError, match="flows"):
        decompose(masks, depths, flows[:2], cameras)
