"""Rewards in TRL's convention: ``reward(prompts, images, **columns) -> list[float]``."""
