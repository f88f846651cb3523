"""Motion of points: similarity of the whole x (rest + deformation), for strokes, Gaussians and meshes alike."""
