"""The laboratory: a drawn world small enough to train in, with exact oracles."""
