"""Materials, lights and shading: pure torch, differentiable, no renderer in it. See docs/materials.md.

Inside, colours are linear Rec.709 and directions are unit vectors in the frame of `sds3d.conventions`; `view` and `light`
point away from the surface, to the camera and to the light. `roughness` is glTF's perceptual one, alpha = roughness^2.
Import from the files (nothing is re-exported); `...` is any number of leading axes.

colour      srgb_from_linear(linear) · linear_from_srgb(srgb) · aces(linear) · to_display(linear, transform="srgb")
            VIEW_TRANSFORMS = ("none", "srgb", "aces_srgb")
brdf        Shaded(diffuse, specular): .rgb
            Material(base_colour [..., 3] linear, roughness [..., 1], metallic [..., 1]): .f0, .diffuse_colour
            distribution, visibility, masking, schlick; evaluate(material, normal, view, light, mode) -> f [..., 3]
            MODES = ("simple", "coupled", "layered"): as most papers, as glTF's appendix B, as viewers of glTF files
sampling    hammersley, cosine_directions, visible_half_vectors and their densities
energy      energy_table(size=64, samples=1024) -> [1, 2, size, size]; split_sum(n_dot_v, roughness) -> (A, B), each [..., 1]
montecarlo  integrate(material, normal, view, radiance, samples=256, mode="simple", generator=None) -> Shaded

environment EnvironmentLight(texels, layout="cubemap"|"latlong", resolution=None, activation="exp"|"none", learnable=...)
              nn.Module; .prefiltered() -> Prefiltered (once a step, differentiable) · .cubemap() [6, R, R, 3]
              .latlong(height) [H, 2H, 3] · .whiteness() scalar · .variation() scalar
              EnvironmentLight.constant(radiance, resolution, ...), EnvironmentLight.from_latlong(image, resolution, ...)
prefilter   Prefiltered: .radiance(direction) · .diffuse(normal) = E / pi · .specular(direction, roughness), all [..., 3]
              .rotated(azimuth_rad) -> Prefiltered
sh          ShLight(coefficients [9, 3]): the same three methods (band-limited), .rotated is not offered
              project(cubemap, degree) · irradiance(coefficients, normal) = E / pi
              irradiance_seen(coefficients, visibility [..., K], normal): light times baked visibility (triple product)
latlong     cubemap_from_latlong(image, resolution) · latlong_from_cubemap(cubemap, height)
            convert(image, source, target): CONVENTIONS = ("blender", "threejs", "nvdiffrec", "mitsuba")
hdri        read_light_image(path, convention="blender", axes="gltf") -> [H, 2H, 3] linear, our convention
            write_hdr(path, image) · write_exr(path, image)
lights      named_light(name) -> latlong image; LIGHTS = ("constant", "studio", "sunset", "overcast", "ring", "lamps", ...)
            open_light(name_or_path, resolution=..., ...) -> EnvironmentLight
occlusion   specular_occlusion(n_dot_v, openness, roughness) · occluded(shaded, openness, normal, view, roughness) -> Shaded

gbuffer     GBuffer(alpha, normal, position, base_colour, roughness, metallic, view, extras={}): all [B, H, W, C],
              attributes un-premultiplied; .material; extras: "raw", "progress", ...
            view_directions(cameras) -> [B, H, W, 3] · positions(distance, view, cameras) -> [B, H, W, 3]
deferred    ShadeSettings(mode="simple", direction="dominant"|"mirror", energy_compensation=False, bend_normals=True)
            shade_points(material, normal, view, light, settings, diffuse_light=None) -> Shaded(diffuse, specular), .rgb linear
            shade(gbuffer, light, settings=ShadeSettings(), diffuse_light=None) -> Shaded, [B, H, W, 3] linear, not composited
            composite(rgb, alpha, background [B, 3] | [B, H, W, 3]) -> [B, H, W, 3]
            `light` is Prefiltered, ShLight or EnvironmentLight (prefiltered on the spot); `diffuse_light` [B, H, W, 3] takes
            the place of light.diffuse(normal), e.g. `sh.irradiance_seen`.

renderers/gbuffer.py (above this floor)
            from_gaussians(means, quats, scales, opacities, attributes, cameras, ...) -> (GBuffer, meta)
              attributes: dict of [N, C] tensors; "base_colour", "roughness", "metallic" are needed, others land in extras
            from_mesh(vertices, faces, material, cameras, ...) -> GBuffer · textured(texture) -> material
            shortest_axes(means, quats, scales, centres) · normals_from_depth(depth, cameras)
"""
