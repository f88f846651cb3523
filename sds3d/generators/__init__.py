"""Generators: networks that output assets, trained by score distillation (`docs/generators.md`)."""
