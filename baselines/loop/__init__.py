"""The one loop around every method, on ``transformers.Trainer``."""
