"""Colours, and a suite that asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from typing_extensions import override

from soarbench.config.suites import SuiteConfig
from soarbench.data.prompts import PromptItem

Rgb = tuple[int, int, int]
COLORS: Mapping[str, Rgb] = {
    "black": (0, 0, 0),
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "white": (255, 255, 255),
}


def colors_of(prompt: str) -> list[Rgb]:
    """The colours that a prompt names."""
    return [COLORS[word] for word in prompt.split() if word in COLORS]


@dataclass(frozen=True, kw_only=True)
class PaletteSuite(SuiteConfig):
    """One prompt a colour.

    Attributes:
        template: Of the prompts.
    """

    template: str = "a {} wall"

    @override
    def items(self) -> list[PromptItem]:
        # What else is in an entry is told to judges as a sample's metadata.
        return self.numbered({"prompt": self.template.format(name)} for name in COLORS)
