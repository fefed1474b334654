"""Scorers of how well people would like an image, or how well it fits its prompt."""
