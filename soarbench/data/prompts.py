"""What a model is asked to draw, as evaluation suites and the check of training sets know it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class PromptItem:
    """One prompt of a suite; ``prompt_id`` is unique in it and fixes the evaluation seeds."""

    prompt_id: str
    prompt: str
    metadata: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptSuite:
    """A named list of prompts."""

    name: str
    items: tuple[PromptItem, ...]

    @property
    def sha256(self) -> str:
        """Digest of prompts and metadata, for the fingerprint."""
        # Of identifiers, too: they fix the noise that each image is drawn from.
        rows = [(item.prompt_id, item.prompt, dict(item.metadata)) for item in self.items]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def normalised(prompt: str) -> str:
    """A prompt as the overlap check compares it: lower case, single spaces, no final stop."""
    return " ".join(prompt.lower().split()).rstrip(".")
