"""Pictures of one object with cameras: readers of the usual layouts, and rendered sets with known materials and lights."""

from __future__ import annotations

from sds3d.datasets.view_set import ViewSet

__all__ = ["ViewSet"]
