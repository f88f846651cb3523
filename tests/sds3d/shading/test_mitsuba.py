"""Our lights and materials against Mitsuba 3 (scalar_rgb): orientation of maps, file formats, energy of a lit sphere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sds3d.shading import directions, hdri, latlong, lights, montecarlo
from sds3d.shading.brdf import Material

SIZE, SAMPLES = 16, 512


@pytest.fixture(scope="module")
def mitsuba():
    """Mitsuba in its scalar variant; the LLVM one can abort the whole process."""
    found = pytest.importorskip("mitsuba")
    found.set_variant("scalar_rgb")
    return found


def emitter(mitsuba, image):
    return {"type": "envmap", "bitmap": mitsuba.Bitmap(image.contiguous().numpy()), "scale": 1.0}


def in_gltf_axes(direction):
    return direction @ torch.tensor(latlong.AXES["gltf"]).T


@pytest.mark.parametrize("place", [(20, 3), (9, 40), (16, 63), (2, 17)])
def test_a_bright_texel_lies_where_mitsuba_sees_it(mitsuba, place):
    """A bright patch of 3 x 3 texels, looked up through Mitsuba's emitter at the direction of its middle."""
    image = torch.full((32, 64, 3), 0.1)
    for row in (-1, 0, 1):
        for column in (-1, 0, 1):
            image[min(max(place[0] + row, 0), 31), (place[1] + column) % 64] = 50.0
    theirs = latlong.convert(image, "blender", "mitsuba")
    scene = mitsuba.load_dict({"type": "scene", "light": emitter(mitsuba, theirs)})
    light = scene.environment()
    ours = directions.latlong_directions(32)[place]
    towards = in_gltf_axes(ours)
    interaction = mitsuba.SurfaceInteraction3f()
    interaction.wi = mitsuba.Vector3f([-float(value) for value in towards])
    assert float(np.array(light.eval(interaction))[0]) == pytest.approx(50.0, rel=0.02)


def test_radiance_files_are_read_and_written_alike(mitsuba, tmp_path):
    image = lights.named_light("studio", 16)
    theirs = np.array(mitsuba.Bitmap(str(hdri.write_hdr(tmp_path / "a.hdr", image))))
    ours = hdri.read_light_image(tmp_path / "a.hdr")
    assert np.allclose(theirs, ours.numpy(), rtol=1e-6)
    mitsuba.Bitmap(image.numpy()).write(str(tmp_path / "b.hdr"))
    again = hdri.read_light_image(tmp_path / "b.hdr")
    largest = image.amax(dim=-1, keepdim=True)
    assert float(((again - image).abs() / largest).max()) <= 1 / 128


def sphere_points():
    """What an orthographic camera on +X sees of the unit sphere, SIZE x SIZE pixels: normals [H, W, 3] and a mask."""
    centre = (torch.arange(SIZE) + 0.5) * (2.0 / SIZE) - 1.0
    down, right = torch.meshgrid(centre, centre, indexing="ij")
    height = 1.0 - down**2 - right**2
    # Seen from +X, +Y lies to the right and +Z is up.
    normal = torch.stack([height.clamp_min(0).sqrt(), right, -down], dim=-1)
    return normal, height > 0.25


@pytest.mark.slow
@pytest.mark.parametrize(("light", "bound"), [("constant", 0.01), ("sky", 0.01), ("lamps", 0.02)])
@pytest.mark.parametrize("surface", ["diffuse", "metal"])
def test_a_lit_sphere_is_as_bright(mitsuba, surface, light, bound):
    """Means over the sphere, of Mitsuba's path tracer and of our integrator, under the same image."""
    image = lights.named_light(light, 64)
    gold = [0.9, 0.6, 0.3]
    bsdf = {
        "diffuse": {"type": "diffuse", "reflectance": {"type": "rgb", "value": 0.5}},
        "metal": {
            "type": "principled",
            "base_color": {"type": "rgb", "value": gold},
            "metallic": 1.0,
            "roughness": 0.5,
        },
    }[surface]
    picture = mitsuba.render(mitsuba.load_dict(orthographic(mitsuba, bsdf, image)), spp=SAMPLES, seed=1)
    theirs = torch.from_numpy(np.array(picture))[..., :3]
    normal, mask = sphere_points()
    view = torch.tensor([1.0, 0.0, 0.0]).expand_as(normal[mask])
    count = int(mask.sum())
    values = {
        "diffuse": Material(torch.full((count, 3), 0.5), torch.ones(count, 1), torch.zeros(count, 1)),
        "metal": Material(torch.tensor(gold).expand(count, 3), torch.full((count, 1), 0.5), torch.ones(count, 1)),
    }[surface]
    shaded = montecarlo.integrate(values, normal[mask], view, lambda place: latlong.sample(image, place), 1024)
    ours = shaded.diffuse if surface == "diffuse" else shaded.rgb
    bias = (ours.mean(dim=0) - theirs[mask].mean(dim=0)) / theirs[mask].mean(dim=0)
    assert float(bias.abs().max()) < bound, bias
    # And pixel by pixel, but for noise: nothing is mirrored or turned.
    error = (ours - theirs[mask]).abs().mean() / theirs[mask].mean()
    assert float(error) < 0.06, error


def orthographic(mitsuba, bsdf, image):
    """The unit sphere, seen from our +X with +Z up, under a map of our convention."""
    axes = torch.tensor(latlong.AXES["gltf"])
    eye, up = (axes @ torch.tensor([4.0, 0.0, 0.0])).tolist(), (axes @ torch.tensor([0.0, 0.0, 1.0])).tolist()
    look = mitsuba.ScalarTransform4f().look_at(origin=eye, target=[0, 0, 0], up=up)
    return {
        "type": "scene",
        "integrator": {"type": "direct"},
        "sensor": {
            "type": "orthographic",
            "to_world": look,
            "film": {
                "type": "hdrfilm",
                "width": SIZE,
                "height": SIZE,
                "rfilter": {"type": "box"},
                "pixel_format": "rgb",
            },
        },
        "ball": {"type": "sphere", "bsdf": bsdf},
        "light": emitter(mitsuba, latlong.convert(image, "blender", "mitsuba")),
    }
