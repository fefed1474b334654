"""The one call by which anything asks a judge: a run, a folder, a training set, a reward."""

# Canaries are asked by it, too, so that it stands beside the judge.
from evaluators.base import checked_scores as checked_scores
