"""The laboratory's suites: compositions that its base model was never trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from soarbench.config.suites import SuiteConfig
from soarbench.data.prompts import PromptItem
from soarbench.lab.world.grammar import Composition, split

Part = Literal["geneval", "ocr", "drawbench", "tuning_geneval", "tuning_drawbench"]


@dataclass(frozen=True, kw_only=True)
class LabSuite(SuiteConfig):
    """Held-out compositions.

    Attributes:
        part: Which of them.
    """

    part: Part

    def items(self) -> list[PromptItem]:
        """All of the part."""
        compositions: Sequence[Composition] = getattr(split(), self.part)
        return self.numbered(composition.metadata() for composition in compositions)
