"""Where the prompts of suites come from. Imports no framework."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from soarbench.common.errors import UserError
from soarbench.common.strict import ADDRESS
from soarbench.config.suites import SuiteConfig, missing_prompts
from soarbench.data.prompts import PromptItem, PromptSuite
from soarbench.evaluation.prompt_files import read_prompts


@dataclass(frozen=True, kw_only=True)
class OfficialGenEval(SuiteConfig):
    """GenEval's official prompts, which follow from their published sampling procedure."""

    def items(self) -> list[PromptItem]:
        """All 553."""
        from evaluators.geneval.prompts import official_metadata

        return self.numbered(official_metadata())


@dataclass(frozen=True, kw_only=True)
class PromptFile(SuiteConfig):
    """Prompts of a file that the user brings.

    Attributes:
        prompts: The file: one prompt a line, or JSON Lines with ``prompt``.
        prompts_sha256: Of that file; filled in when a grid is expanded.
        prompts_published: How many different prompts the published file holds.
    """

    # The content is what counts, wherever the file lies.
    prompts: str | None = field(default=None, metadata=ADDRESS)
    prompts_sha256: str | None = None
    prompts_published: int = field(metadata=ADDRESS)

    def items(self) -> list[PromptItem]:
        """The different prompts; ``UserError`` without a file."""
        if self.prompts is None:
            raise UserError(missing_prompts(self))
        items = read_prompts(Path(self.prompts).expanduser(), self.name)
        # DrawBench's public file has each of its 200 prompts five times; how many images a prompt
        # gets is ours to say.
        return list({item.prompt: item for item in items}.values())

    @property
    def needs_file(self) -> bool:
        """Whether it is not named yet."""
        return self.prompts is None

    @property
    def num_published(self) -> int:
        """As configured."""
        return self.prompts_published


def load_suite(config: SuiteConfig) -> PromptSuite:
    """All prompts of a suite; ``UserError`` where they cannot be read."""
    if config.needs_file:
        # Blank ones are enough for a dry run, and nothing else starts without the file.
        items = config.numbered({"prompt": ""} for _ in range(config.num_published))
    else:
        items = config.items()
    return PromptSuite(config.name, tuple(items))
