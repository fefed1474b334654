"""Prompt suites, evaluation seeds and training rows."""
