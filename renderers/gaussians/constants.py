"""Thresholds of the rasteriser, equal to those of gsplat 1.5.3, so that every back end draws the same picture."""

from __future__ import annotations

GSPLAT_VERSION = "1.5"
"""Release line of gsplat whose rules are followed (version numbers must start with it)."""

ALPHA_MAX = 0.999
"""One Gaussian never hides everything behind it: keeps 1 / (1 - alpha) finite in the gradient. (gsplat main: 0.99.)"""

ALPHA_MIN = 1.0 / 255.0
"""Fainter contributions are skipped: below one step of an 8-bit image."""

TRANSMITTANCE_MIN = 1e-4
"""A pixel is finished before the Gaussian that would bring its transmittance to this value or below."""

EXTENT_MAX = 3.33
"""Largest half-width of a splat in standard deviations; opacity 1 falls to ALPHA_MIN at sqrt(2 ln 255) = 3.329."""

JACOBIAN_MARGIN = 0.3
"""The projection's Jacobian is evaluated inside the image widened by this fraction of its half-size: a linearisation
far outside the image would smear Gaussians over it."""

DEPTH_ALPHA_MIN = 1e-10
"""Smallest alpha by which an accumulated depth is divided (modes ED and RGB+ED)."""

TILE = 16
"""Side of a tile in pixels."""

RENDER_MODES = ("RGB", "D", "ED", "RGB+D", "RGB+ED")
RASTERIZE_MODES = ("classic", "antialiased")
BACKENDS = ("auto", "reference", "cpu", "gsplat")
