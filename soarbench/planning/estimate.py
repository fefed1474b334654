"""How long cells take: measured rates of the budget times what is left to do."""

from __future__ import annotations

from collections.abc import Mapping

from soarbench.config.run import RatesConfig
from soarbench.config.settings import CellConfig, SuiteConfig, stages
from soarbench.evaluation.suites import num_available
from soarbench.store.cell_folder import CellFolder

STAGES = ("train", "sample", "score", "log")


def num_prompts(suite: SuiteConfig) -> int:
    """Prompts of a suite that are evaluated."""
    available = num_available(suite)
    return available if suite.max_prompts is None else min(available, suite.max_prompts)


def num_images(cell: CellConfig) -> dict[str, int]:
    """Images of each suite at each step."""
    return {
        name: num_prompts(suite) * suite.images_per_prompt for name, suite in cell.suites.items()
    }


def stage_seconds(cell: CellConfig, rates: RatesConfig, num_processes: int = 1) -> dict[str, float]:
    """Estimated seconds of each stage of a cell that starts from nothing.

    Args:
        cell: What is run.
        rates: Measured with one process.
        num_processes: That train together.
    """
    images = num_images(cell)
    steps = len(cell.steps)
    training = cell.training.steps if cell.training is not None else 0
    scoring = sum(
        images[name] * rates.seconds_per_score.get(judge, 0.0)
        for name, suite in cell.suites.items()
        for judge in suite.judges
    )
    return {
        "train": training
        / num_processes
        * rates.seconds_per_step.get(stages(cell.method_name)[-1], 0.0),
        "sample": steps * sum(images.values()) * rates.seconds_per_image,
        "score": steps * scoring,
        "log": rates.cell_seconds,
    }


def seconds_left(
    cell: CellConfig, folder: CellFolder, rates: RatesConfig, num_processes: int = 1
) -> dict[str, float]:
    """The same, without the stages that are over."""
    seconds = stage_seconds(cell, rates, num_processes)
    done: Mapping[str, bool] = {
        "train": folder.training_table.is_file(),
        "sample": folder.scores_table.is_file(),
        "score": folder.scores_table.is_file(),
        "log": folder.is_finished(),
    }
    return {stage: 0.0 if done[stage] else seconds[stage] for stage in STAGES}
