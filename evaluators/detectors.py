"""The detector's post-processing under the name that reference vectors call it by."""

from evaluators.geneval.detectors import instances_from_logits

__all__ = ["instances_from_logits"]
