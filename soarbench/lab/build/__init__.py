"""Builds the laboratory from seeds: data, autoencoder, base model, CLIP, aesthetic head, card."""
