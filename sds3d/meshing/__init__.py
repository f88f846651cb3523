"""Meshes: iso-surfaces from splats, cleaning, colours."""
