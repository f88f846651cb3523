"""Many prompts, one command: a queue of assets, workers that keep their priors, an index and a gallery."""
