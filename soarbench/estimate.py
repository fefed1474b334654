"""How long cells take: measured rates of the budget times what is left to do."""

from __future__ import annotations

from collections.abc import Mapping

from soarbench.cell_folder import CellFolder
from soarbench.config import CellConfig, RatesConfig, SuiteConfig
from soarbench.data.suites import load_suite

STAGES = ("train", "sample", "score", "log")


def num_prompts(suite: SuiteConfig) -> int:
    """Prompts of a suite that are evaluated."""
    available = len(load_suite(suite.name).items)
    return available if suite.max_prompts is None else min(available, suite.max_prompts)


def num_images(cell: CellConfig) -> dict[str, int]:
    """Images of each suite at each step."""
    return {
        name: num_prompts(suite) * suite.images_per_prompt for name, suite in cell.suites.items()
    }


def stage_seconds(cell: CellConfig, rates: RatesConfig) -> dict[str, float]:
    """Estimated seconds of each stage of a cell that starts from nothing."""
    images = num_images(cell)
    steps = len(cell.steps)
    training = cell.training.steps if cell.training is not None else 0
    scoring = sum(
        images[name] * rates.seconds_per_score.get(judge, 0.0)
        for name, suite in cell.suites.items()
        for judge in suite.evaluators
    )
    return {
        "train": training * rates.seconds_per_step.get(cell.method_name, 0.0),
        "sample": steps * sum(images.values()) * rates.seconds_per_image,
        "score": steps * scoring,
        "log": rates.cell_seconds,
    }


def seconds_left(cell: CellConfig, folder: CellFolder, rates: RatesConfig) -> dict[str, float]:
    """The same, without the stages that are over."""
    seconds = stage_seconds(cell, rates)
    done: Mapping[str, bool] = {
        "train": folder.training_table.is_file(),
        "sample": folder.scores_table.is_file(),
        "score": folder.scores_table.is_file(),
        "log": folder.is_finished(),
    }
    return {stage: 0.0 if done[stage] else seconds[stage] for stage in STAGES}
