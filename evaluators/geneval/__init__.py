"""GenEval: objects, counts, colours and positions in images."""

from evaluators.geneval.verdict import judge

__all__ = ["judge"]
