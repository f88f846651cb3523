"""MVDream: a diffusion model that draws the four sides of an object together."""
