"""OCR: text in images."""

from evaluators.ocr.evaluator import text_reward

__all__ = ["text_reward"]
