"""Progressive radiance distillation: a radiance field turns into materials and light as far as these explain it.

Source: Ye, Hou, Zhou 2024, "Progressive Radiance Distillation for Inverse Rendering with Gaussian Splatting"; no code of it
is public, so what the paper leaves open is ours (docs/radiance_to_pbr.md).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from renderers.gaussians.materials import CLOUD_GROUPS, MaterialGaussians
from renderers.gaussians.parameters import Gaussians
from renderers.gaussians.propagation import disturb_colours, propagate_normals, relocate_faint
from renderers.gaussians.visibility import Visibility
from renderers.gbuffer import normals_from_depth
from renderers.material_surface import MaterialSurface
from sds3d.cameras import Cameras
from sds3d.config.materials import MaterialsConfig
from sds3d.datasets.view_set import ViewSet
from sds3d.errors import DivergenceError
from sds3d.shading import sh
from sds3d.shading.brdf import Material
from sds3d.shading.colour import to_display
from sds3d.shading.deferred import ShadeSettings, composite, shade_points
from sds3d.shading.directions import cube_directions
from sds3d.shading.environment import EnvironmentLight
from sds3d.shading.gbuffer import GBuffer
from sds3d.shading.prefilter import Prefiltered
from systems import radiance_to_pbr_losses as losses
from systems.radiance_to_pbr_mesh import stand_ins, start_values
from systems.radiance_to_pbr_release import release
from systems.radiance_to_pbr_stages import Stage, apply_rates, plan, rates
from systems.randomness import generator_for

FAINT = 0.02
"""Gaussians of at most this opacity are moved in stage raw."""
VISIBLE = 1.0 / 255.0
"""Pixels of less coverage are background."""
LIGHT_DEGREE, LIGHT_FACE = 3, 16
"""Harmonics of the light that meet those of the visibility, and the texels along an edge they are taken from."""


@dataclass(frozen=True)
class Shown:
    """What the cameras see, display-referred and un-premultiplied, [B, H, W, C].

    `raw` is baked, `physical` is shaded (None in stage raw), `mixed` is their mixture by `progress`.
    """

    gbuffer: GBuffer
    raw: Tensor
    physical: Tensor | None
    progress: Tensor
    mixed: Tensor


class RadianceToPbr(nn.Module):
    """A cloud with materials, or a mesh with them, the light it was seen under, and the machine of stages.

    Args:
        config: the recipe. start: where the cloud starts, copied; or a mesh (`material_surface`), taken as it is.
    """

    cloud: MaterialGaussians | MaterialSurface

    def __init__(self, config: MaterialsConfig, start: Gaussians | MaterialSurface) -> None:
        super().__init__()
        self.config = config
        if isinstance(start, MaterialSurface):
            self.cloud = start
        else:
            self.cloud = MaterialGaussians(start, config.cloud.sh_degree, start_values(config), config.cloud.backend)
        shading = config.shading
        self.light = EnvironmentLight.constant(
            shading.light_start, shading.light_resolution, activation="exp", learnable=True
        )
        self.visibility = Visibility(shading.visibility_cells, config.cloud.init_radius)
        self.settings = ShadeSettings(mode=shading.mode, direction=shading.direction)
        self.stages = plan(config)
        self.step = 0
        groups = [*self.cloud.parameter_groups(), {"params": list(self.light.parameters()), "lr": 0.0, "name": "light"}]
        self.optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15, fused=True)

    @property
    def device(self) -> torch.device:
        """Where the asset lies."""
        return self.light.values.device

    @property
    def stage(self) -> Stage:
        """The stage of the next step, or the last one when all steps are done."""
        return next((stage for stage in self.stages if self.step < stage.stop), self.stages[-1])

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.config.total_steps

    def shown(self, cameras: Cameras, light: Prefiltered | None = None, stage: Stage | None = None) -> Shown:
        """Return what the cameras see in `stage` (default: the present one), under the learnt light or another one."""
        stage = stage or self.stage
        gbuffer = self.cloud.gbuffer(cameras, stage.metallic)
        raw, progress = gbuffer.extras["raw"], gbuffer.extras["progress"]
        if stage.progress is not None:
            progress = torch.full_like(progress, stage.progress)
        if stage.progress == 0.0:
            return Shown(gbuffer, raw, None, progress, raw)
        physical = self.physical(gbuffer, light)
        mixed = physical if stage.progress == 1.0 else losses.mix(raw, physical, progress)
        return Shown(gbuffer, raw, physical, progress, mixed)

    def physical(self, gbuffer: GBuffer, light: Prefiltered | None = None) -> Tensor:
        """Return the shaded picture [B, H, W, 3], display-referred, not composited; 0 where nothing is, on a CPU."""
        light = self.light.prefiltered() if light is None else light
        planes = (
            gbuffer.base_colour,
            gbuffer.roughness,
            gbuffer.metallic,
            gbuffer.normal,
            gbuffer.view,
            gbuffer.position,
        )
        if gbuffer.alpha.device.type != "cpu":  # finding covered pixels would make a card wait
            return self._points(light, *planes)
        # Most pixels see nothing; shading costs as many look-ups a pixel as there are roughness levels.
        rows = (gbuffer.alpha.flatten() >= VISIBLE).nonzero()[:, 0]
        chosen = [plane.reshape(-1, plane.shape[-1]).index_select(0, rows) for plane in planes]
        blank = gbuffer.base_colour.new_zeros(gbuffer.alpha.numel(), 3)
        return blank.index_copy(0, rows, self._points(light, *chosen)).view_as(gbuffer.base_colour)

    def _points(
        self,
        light: Prefiltered,
        base_colour: Tensor,
        roughness: Tensor,
        metallic: Tensor,
        normal: Tensor,
        view: Tensor,
        position: Tensor,
    ) -> Tensor:
        """Return what points [...] show, display-referred [..., 3]."""
        is_shadowed = self.config.shading.visibility and self.visibility.is_baked
        diffuse = self._seen(position, normal, light) if is_shadowed else None
        shaded = shade_points(Material(base_colour, roughness, metallic), normal, view, light, self.settings, diffuse)
        return to_display(shaded.rgb, self.config.shading.view_transform)

    def _seen(self, position: Tensor, normal: Tensor, light: Prefiltered) -> Tensor:
        """Return irradiance / pi [..., 3] with the baked visibility.

        The harmonics only say what is hidden: where nothing is, the light's own irradiance stays, which is sharper.
        """
        place = _light_places(normal.device, normal.dtype)
        coefficients = sh.project(light.radiance(place), LIGHT_DEGREE)
        seen = sh.irradiance_seen(coefficients, self.visibility.at(position, normal), normal)
        hidden = sh.irradiance(coefficients, normal) - seen
        return (light.diffuse(normal) - hidden).clamp_min(0.0)

    def losses(self, views: ViewSet, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the present stage on the views `rows` [K], and its terms, unweighted."""
        stage, weights = self.stage, self.config.weights
        device = self.device
        background = torch.rand(len(rows), 3, generator=generator).to(device)
        rows = rows.to(device)
        cameras, mask = views.cameras[rows], views.alpha[rows]
        wanted = composite(views.images[rows], mask, background)
        shown = self.shown(cameras)
        gbuffer = shown.gbuffer
        picture = composite(shown.mixed, gbuffer.alpha, background)
        terms = {"photometric": losses.photometric(picture, wanted, weights.dssim)}
        terms["mask"] = (gbuffer.alpha - mask).square().mean()
        terms["flat"] = self.cloud.flatness
        if weights.normal and isinstance(self.cloud, MaterialGaussians):  # a given surface cannot turn
            depth_normal = normals_from_depth(_depth(gbuffer, cameras), cameras)
            terms["normal"] = losses.normal_consistency(gbuffer.normal, depth_normal, gbuffer.alpha)
        if stage.progress != 0.0 and isinstance(self.cloud, MaterialSurface):
            terms["jitter"] = self.cloud.variation(generator, stage.progress)
        if stage.draws:
            terms["white"] = self.light.whiteness()
            if stage.progress is None:
                terms["progress"] = (mask * (1.0 - shown.progress)).square().mean()
            planes = torch.cat([gbuffer.base_colour, gbuffer.roughness, gbuffer.metallic], dim=-1)
            terms["smooth"] = losses.smoothness(planes, wanted, mask)
            terms["binary"] = (mask * gbuffer.metallic * (1.0 - gbuffer.metallic)).mean()
        scale = {"photometric": 1.0, "progress": weights.progress.at(self.step, self.config.total_steps)}
        weighted = [scale.get(name, getattr(weights, name, 1.0)) * term for name, term in terms.items()]
        return torch.stack(weighted).sum(), {name: term.detach() for name, term in terms.items()}

    def advance(self, views: ViewSet) -> dict[str, Tensor]:
        """Do one step on `views` and return the unweighted loss terms. Raises: DivergenceError if the loss is not finite."""
        stage, config = self.stage, self.config
        if self.step == stage.start:
            self.enter(stage)
        apply_rates(self.optimiser, rates(config, stage, self.step))
        generator = generator_for(config.seed, "step", self.step)
        rows = torch.randperm(len(views), generator=generator)[: config.views]
        loss, terms = self.losses(views, rows, generator)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self._shake(stage, generator)
        self.step += 1
        if self.step % 50 == 0 and not torch.isfinite(loss):
            raise DivergenceError("loss of radiance_to_pbr", self.step)
        return terms

    @torch.no_grad()
    def enter(self, stage: Stage) -> None:
        """Do what happens once, before the first step of a stage."""
        config = self.config
        if config.method == "progressive" and stage.name == "diffuse":
            release(self.cloud, config)
        is_time = stage.name in ("diffuse", "joint") and config.method != "radiance"
        if config.shading.visibility and is_time and not self.visibility.is_baked:
            cloud = self.cloud
            if isinstance(cloud, MaterialSurface):
                points = cloud.scatter(config.cloud.count, generator_for(config.seed, "start", 1))
                cloud = stand_ins(*points, config)
            self.visibility.bake(cloud.means, cloud.quats, cloud.scales, cloud.opacities, cloud.backend)

    def _shake(self, stage: Stage, generator: torch.Generator) -> None:
        """Move faint Gaussians in stage raw, and propagate normals in stage specular, where it is time."""
        if isinstance(self.cloud, MaterialSurface):
            return
        done, every, config = self.step - stage.start + 1, self.config.cloud.relocate_every, self.config.propagation
        is_early = stage is self.stages[0] and done < 0.8 * (stage.stop - stage.start)
        if is_early and every and done % every == 0:
            relocate_faint(self.cloud, self.optimiser, FAINT, generator)
        is_specular = self.config.method == "progressive" and stage.name == "specular"
        if is_specular and config.every and done % config.every == 0:
            propagate_normals(self.cloud, self.optimiser, config)
            disturb_colours(self.cloud, self.optimiser, config, generator)

    def state(self) -> dict[str, Any]:
        """Return all that a resumed run needs: values, optimiser and the number of the step."""
        return {"module": self.state_dict(), "optimiser": self.optimiser.state_dict(), "step": self.step}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned, of a system with the same recipe."""
        module, cloud = state["module"], self.cloud
        if isinstance(cloud, MaterialGaussians) and len(module["cloud.means"]) != cloud.count:
            cloud.resize_(len(module["cloud.means"]))
            for group in self.optimiser.param_groups:
                if group["name"] in CLOUD_GROUPS:
                    group["params"] = [getattr(cloud, group["name"])]
        self.load_state_dict(module)
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = int(state["step"])


@functools.lru_cache(maxsize=4)
def _light_places(device: torch.device, dtype: torch.dtype) -> Tensor:
    return cube_directions(LIGHT_FACE).to(device, dtype)


def _depth(gbuffer: GBuffer, cameras: Cameras) -> Tensor:
    """Return camera z [B, H, W, 1] of the positions."""
    ahead, centre = cameras.cam_to_world[:, None, None, :3, 2], cameras.cam_to_world[:, None, None, :3, 3]
    return ((gbuffer.position - centre) * ahead).sum(dim=-1, keepdim=True)


def distil(
    config: MaterialsConfig,
    out: Path,
    *,
    tell: Callable[[str], None] = lambda line: None,
    cache: Path | None = None,
    checkpoint_every_s: float = 60.0,
) -> dict[str, float | None]:
    """Run a recipe into the folder `out`, or continue the run that is there, and return what was measured.

    Writes recipe.yaml, checkpoints/last.ckpt, metrics.json, previews/buffers.png and export/{splats.ply, mesh.glb,
    light.hdr}. `tell` gets a line now and then; `cache` keeps rendered sets (None: the user's cache folder).
    Raises: ConfigError if the folder holds a run of another recipe; AssetError for a source that cannot be read;
        DivergenceError.
    """
    from systems.radiance_to_pbr_run import run

    outcome = run(config, out, tell, cache, checkpoint_every_s)
    for path in outcome.files:
        tell(f"wrote {path}")
    return outcome.numbers
