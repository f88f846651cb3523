"""Files that move: meshes with morph targets and node animation, sequences of splats, clips."""
