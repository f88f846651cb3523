"""Triangle meshes: rasterisation (reference, CPU kernel, nvdiffrast, PyTorch3D), interpolation, antialiasing, texture."""
