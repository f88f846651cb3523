"""Bezier strokes in space as a renderer; see docs/sketches.md."""
