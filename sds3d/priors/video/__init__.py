"""Video priors: what does a frozen diffusion model predict for a noisy clip?"""
