"""CLIP encoders that several judges share."""
