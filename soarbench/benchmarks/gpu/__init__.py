"""Speed and memory of everything that a GPU does, measured on one, into ``results/gpu``."""
