"""Volume rendering in plain torch: rays, where to sample them, how samples become pixels."""
