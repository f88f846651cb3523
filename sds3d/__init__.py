"""sds3d: 3D and 4D generation by score distillation. Importing this package loads no heavy dependency."""

__version__ = "0.1.0"
