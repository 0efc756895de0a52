"""Grids, rows, latents and noise: the geometry that all rooms of the engine share."""
