"""A material under a light map in three.js, in a browser, beside our own render: axes, mirroring, brightness, gloss.

Skipped, with the reason, where three.js or a browser is missing (docs/meshes.md).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from renderers.pbr_mesh import PbrMeshRenderer, material_texture
from sds3d.cameras import orbit
from sds3d.config.pbr import PbrMeshConfig
from sds3d.export.axes import to_gltf_axes
from sds3d.export.mesh import write_mesh
from sds3d.meshing.mesh import Mesh
from sds3d.shading.deferred import ShadeSettings
from sds3d.shading.environment import EnvironmentLight
from sds3d.shading.hdri import read_light_image, write_hdr
from sds3d.shading.lights import named_light
from sds3d.shading.occlusion import occluded
from systems.materials import with_textures

AZIMUTH, ELEVATION, DISTANCE, FOV, SIZE = 40.0, 20.0, 2.6, 45.0, 192
ABSENT = (255, 0, 255)

PAGE = """<!doctype html><style>body { margin: 0 }</style>
<script type="importmap">{ "imports": { "three": "/three/build/three.module.js" } }</script>
<script type="module">
import * as THREE from "three";
import { GLTFLoader } from "/three/examples/jsm/loaders/GLTFLoader.js";
import { HDRLoader } from "/three/examples/jsm/loaders/HDRLoader.js";
const renderer = new THREE.WebGLRenderer({ antialias: false, preserveDrawingBuffer: true });
renderer.toneMapping = THREE.NoToneMapping;
renderer.setSize(SIZE, SIZE);
document.body.appendChild(renderer.domElement);
const scene = new THREE.Scene();
scene.background = new THREE.Color("rgb(255, 0, 255)");
const camera = new THREE.PerspectiveCamera(FOV, 1, 0.01, 100);
camera.position.set(...EYE);
camera.lookAt(0, 0, 0);
new HDRLoader().setDataType(THREE.FloatType).load("/light.hdr", (light) => {
  light.mapping = THREE.EquirectangularReflectionMapping;
  scene.environment = new THREE.PMREMGenerator(renderer).fromEquirectangular(light).texture;
  new GLTFLoader().load("/asset.glb", (file) => { scene.add(file.scene); renderer.render(scene, camera); });
});
</script>"""


def painted(points: torch.Tensor) -> dict[str, torch.Tensor]:
    """A material that is alike on no two sides: colours in waves, glossy below, rough above, metal on one side."""
    waves = 0.4 + 0.3 * torch.sin(3.0 * points + torch.tensor([0.0, 1.0, 2.0]))
    rough = (0.55 + 0.45 * points[:, 2:]).clamp(0.2, 0.95)
    return {"base_colour": waves, "roughness": rough, "metallic": torch.sigmoid(20.0 * (points[:, 1:2] - 0.1))}


@pytest.fixture(scope="module")
def asset(mug: Mesh) -> PbrMeshRenderer:
    config = PbrMeshConfig(texture={"kind": "grid", "resolution": 2})
    texture = material_texture(config, torch.Generator().manual_seed(0))
    made = PbrMeshRenderer(torch.from_numpy(mug.vertices), torch.from_numpy(mug.faces), texture, config)
    made.material_at = painted  # type: ignore[method-assign]
    return made


def test_textures_hold_the_material(asset: PbrMeshRenderer, mug: Mesh) -> None:
    """What a viewer reads at random places of the surface is what the asset has there."""
    from sds3d.export.axes import srgb_to_linear
    from sds3d.meshing.bake import sample

    made = with_textures(asset, mug, 256)
    rng = np.random.default_rng(0)
    weight = rng.dirichlet(np.ones(3), 2000)
    face = rng.integers(len(made.faces), size=2000)
    points = np.einsum("nk,nkc->nc", weight, made.vertices[made.faces[face]])
    uvs = np.einsum("nk,nkc->nc", weight, made.uvs[made.uv_faces[face]])
    wanted = painted(torch.from_numpy(points).float())
    base = srgb_to_linear(sample(made.material.base_color, uvs))
    assert np.abs(base - wanted["base_colour"].numpy()).mean() < 0.005
    metal, rough = sample(made.material.metallic_roughness, uvs).T
    assert np.abs(rough - wanted["roughness"][:, 0].numpy()).mean() < 0.01
    assert np.abs(metal - wanted["metallic"][:, 0].numpy()).mean() < 0.02
    assert 0.5 < made.material.occlusion.mean() <= 1.0


@pytest.mark.slow
def test_three_js_shows_the_asset_as_we_light_it(
    asset: PbrMeshRenderer,
    mug: Mesh,
    tmp_path: Path,
    node_package: Callable[[str], Path],
    photograph: Callable[..., np.ndarray],
    serve: Callable[[Path], str],
) -> None:
    (tmp_path / "three").symlink_to(node_package("three"))
    write_mesh(tmp_path / "asset.glb", with_textures(asset, mug, 512))
    light_file = write_hdr(tmp_path / "light.hdr", 0.3 * named_light("studio") + 0.3 * named_light("lamps"))
    light = EnvironmentLight.from_latlong(read_light_image(light_file, "threejs"), 64).prefiltered()
    camera = orbit(*(torch.tensor([value]) for value in (AZIMUTH, ELEVATION, DISTANCE)), FOV, SIZE, SIZE)
    ours, alpha = our_picture(asset, light, camera)
    eye = to_gltf_axes(camera.cam_to_world[:, :3, 3].numpy())[0].tolist()
    (tmp_path / "page.html").write_text(
        PAGE.replace("SIZE", str(SIZE)).replace("FOV", str(FOV)).replace("EYE", str(eye))
    )
    theirs = photograph(f"{serve(tmp_path)}/page.html", 600, 400)[:SIZE, :SIZE]
    there = (theirs != ABSENT).any(axis=2)
    assert (there & (alpha > 0.5)).sum() / (there | (alpha > 0.5)).sum() > 0.95
    both = there & (alpha > 0.99)
    shown = theirs / 255.0
    quality = psnr(shown, ours, both)
    assert quality >= 25.0, f"{quality:.1f} dB"
    # The same picture turned over, or the light from elsewhere, must not pass: the test does look.
    mirrored = both & both[:, ::-1]
    assert psnr(shown, ours[:, ::-1], mirrored) < quality - 6.0
    elsewhere, _ = our_picture(asset, light.rotated(1.57), camera)
    assert psnr(shown, elsewhere, both) < quality - 4.0


@torch.no_grad()
def our_picture(asset, light, camera) -> tuple[np.ndarray, np.ndarray]:
    """Return [SIZE, SIZE, 3] and coverage, with the compensation for rough metals that three.js has."""
    seen = asset.gbuffer(camera)
    settings = ShadeSettings(mode="layered", energy_compensation=True)
    from sds3d.shading.colour import to_display
    from sds3d.shading.deferred import shade

    lit = occluded(shade(seen, light, settings), seen.extras["openness"], seen.normal, seen.view, seen.roughness)
    return to_display(lit.rgb)[0].clamp(0, 1).numpy(), seen.alpha[0, ..., 0].numpy()


def psnr(first: np.ndarray, second: np.ndarray, mask: np.ndarray) -> float:
    return float(-10.0 * np.log10(((first - second)[mask] ** 2).mean()))
