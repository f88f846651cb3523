"""3D Gaussians: parameters, rasterisation (reference, CPU kernel, gsplat), initial clouds and density control."""
