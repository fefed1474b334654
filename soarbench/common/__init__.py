"""Errors, files, progress, provenance, strict conversion."""
