"""Differentiable renderers: they own an asset's parameters and turn cameras into images."""
