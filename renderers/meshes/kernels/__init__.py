"""Compiled loops of the CPU mesh rasteriser."""
