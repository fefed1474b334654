"""Figures; each takes numbers and returns a figure."""
