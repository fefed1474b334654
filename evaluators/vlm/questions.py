"""What a judge asks a vision-language model about an image, and who answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

#: All forms in which a model says yes, as GenEval 2 counts them.
YES = ("Yes", "yes", " yes", " Yes")


@dataclass(frozen=True)
class Question:
    """One question about an RGB image, and the answers whose probability is asked for."""

    text: str
    image: Image.Image
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """How probable it is that the model begins with one of the answers, 0..1.

    nan exactly when ``reason`` says why it is not known.
    """

    probability: float
    reason: str | None = None


class Answerer(Protocol):
    """A vision-language model."""

    weights_hash: str

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """One answer a question, in order."""
