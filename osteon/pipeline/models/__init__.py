"""Model folders and the networks in them: specification, loaders, grids, sliding window."""
