"""Colours, and a suite that asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from typing_extensions import override

from soarbench.config.suites import SuiteConfig
from soarbench.data.prompts import PromptItem

COLORS: Mapping[str, tuple[int, int, int]] = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "white": (255, 255, 255),
}


@dataclass(frozen=True, kw_only=True)
class PaletteSuite(SuiteConfig):
    """One prompt a colour.

    Attributes:
        template: Of the prompts.
    """

    template: str = "a {} wall"

    @override
    def items(self) -> list[PromptItem]:
        # What judges want to know of a prompt stands beside it.
        return self.numbered(
            {"prompt": self.template.format(name), "rgb": list(rgb)} for name, rgb in COLORS.items()
        )
