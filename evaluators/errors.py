"""What judges raise."""

from __future__ import annotations


class EvaluatorError(RuntimeError):
    """An evaluator that cannot be trusted to score at all (missing weights, canaries reversed)."""
