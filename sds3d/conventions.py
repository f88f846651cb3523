"""Frames, units, layouts and colour spaces, stated once. Everything else refers to this page.

World      right-handed, +Z up. An object faces +X; its left side is +Y. It fits in a sphere of radius ~1 about the origin.
Azimuth    0 puts the camera on +X (it sees the object's front); it grows counter-clockwise seen from above, so 90 degrees
           puts the camera on +Y. Elevation is measured from the horizon. Position = distance * (cos e cos a, cos e sin a, sin e).
Camera     `cam_to_world` 4x4, OpenCV axes: x right, y down, z forward. `intrinsics` 3x3 in pixels; pixel (row i, column j)
           is sampled at (j + 0.5, i + 0.5). Vertical field of view. Foreign frames (OpenGL: y up, z backward) are made by
           `OPENCV_TO_OPENGL` at the border of the foreign library and nowhere else.
Images     `[B, H, W, C]` float32 in [0, 1], sRGB-encoded unless a name ends in `_linear`. Priors convert to channels-first.
Quaternion `wxyz`, not necessarily normalised.
Angles     degrees in configuration (`_deg`), radians in code (`_rad`).
"""

from __future__ import annotations

OPENCV_TO_OPENGL = (1.0, -1.0, -1.0, 1.0)
"""Diagonal that turns OpenCV camera axes into OpenGL ones: cam_to_world_opengl = cam_to_world @ diag(...)."""

NUM_TRAIN_TIMESTEPS = 1000
"""Length of the discrete diffusion time axis all discrete-time priors use."""

WORLD_TO_GLTF = ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0))
"""Rotation from our world to glTF's (+Y up, front +Z): (x, y, z) -> (y, z, x)."""
