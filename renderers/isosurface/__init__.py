"""Triangle meshes from signed distances on a grid, differentiable: marching tetrahedra and FlexiCubes."""
