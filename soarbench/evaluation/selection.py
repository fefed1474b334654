"""Which prompts and images of a suite are evaluated, and that none of them is trained on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from evaluators.samples import SampleFile
from soarbench.common.errors import UserError
from soarbench.config.settings import SuiteConfig
from soarbench.data.prompts import PromptItem, PromptSuite, normalised
from soarbench.evaluation.drawing import image_path
from soarbench.evaluation.suites import load_suite, suite_size


def suite_prompts(config: SuiteConfig) -> PromptSuite:
    """The prompts that are evaluated, evenly spaced where only some are."""
    suite = load_suite(config)
    available = len(suite.items)
    count = min(config.max_prompts or available, available)
    # The first N would be one kind of task: GenEval's prompts are sorted by it.
    chosen = tuple(suite.items[index * available // count] for index in range(count))
    return PromptSuite(suite.name, chosen)


def num_images(config: SuiteConfig) -> int:
    """How many images of a suite are drawn; reads no prompt that was read before."""
    _, available = suite_size(config)
    return min(config.max_prompts or available, available) * config.images_per_prompt


def suite_images(config: SuiteConfig) -> list[tuple[PromptItem, int]]:
    """Every (prompt, image index) of a suite, in the order of its rows."""
    indices = range(config.images_per_prompt)
    return [(item, index) for item in suite_prompts(config).items for index in indices]


def sample_files(config: SuiteConfig, root: Path) -> list[SampleFile]:
    """The images of a suite that were drawn into a folder, for a judge."""
    return [
        SampleFile(
            sample_id=f"{item.prompt_id}/{index:04d}",
            path=image_path(root, item.prompt_id, index),
            image_index=index,
            **vars(item),
        )
        for item, index in suite_images(config)
    ]


def refuse_overlap(training_prompts: Iterable[str], suites: Iterable[PromptSuite]) -> None:
    """Refuse to train on a prompt that an evaluation asks for; ``UserError`` names both."""
    # Published training and test prompts do overlap (flow_grpo issue 4).
    held_out = {normalised(item.prompt): suite.name for suite in suites for item in suite.items}
    for prompt in training_prompts:
        suite_name = held_out.get(normalised(prompt))
        if suite_name is not None:
            raise UserError(
                f"training prompt {prompt!r} is also in the evaluation suite {suite_name!r}; "
                "remove it from the training data, since its score would mean nothing"
            )
