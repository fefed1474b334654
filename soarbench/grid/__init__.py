"""A grid expands into cells; no model, no Hydra."""
