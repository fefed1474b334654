"""What cells train on: sets of data, selected and encoded once for all cells that share them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from evaluators.base import Evaluator, Sample
from evaluators.scoring import checked_scores
from soarbench.data.config import TrainingSet
from soarbench.data.encoded_rows import EncodedRows
from soarbench.evaluation.selection import suite_prompts
from soarbench.grid.cell import CellConfig
from soarbench.models.base import ImageModel, ModelConfig
from soarbench.models.prompts import PromptStore


class TrainingSets:
    """Sets of data and encoded prompts, kept below ``cache_dir``.

    ``evaluator`` gives a cell's judge by its name; ``device`` is where text encoders run.
    """

    def __init__(
        self,
        device: torch.device,
        cache_dir: Path,
        evaluator: Callable[[CellConfig, str], Evaluator],
    ) -> None:
        self.device = device
        self.cache_dir = cache_dir
        self.evaluator = evaluator
        self._rows: dict[str, EncodedRows] = {}
        self._sets: dict[str, TrainingSet] = {}
        self._prompts: dict[ModelConfig, PromptStore] = {}

    def prompt_store(self, config: ModelConfig) -> PromptStore:
        """Conditions of prompts, by a model's own text encoders."""
        # Published weights are a transformer's or an adapter's: the encoders are the base's.
        key = dataclasses.replace(config, adapter=None)
        if key not in self._prompts:
            self._prompts[key] = PromptStore(key, self.device, self.cache_dir / "prompts")
        return self._prompts[key]

    def encode_prompts(self, cells: Sequence[CellConfig]) -> None:
        """Encode all prompts that are known before a model is loaded, so that both never meet.

        ``UserError`` where the text encoders cannot be loaded, or a set cannot be used.
        """
        prompts_of: dict[ModelConfig, dict[str, None]] = {}
        for cell in cells:
            # Guidance needs the empty prompt.
            prompts = prompts_of.setdefault(cell.model, {"": None})
            for suite in cell.suites.values():
                prompts |= dict.fromkeys(item.prompt for item in suite_prompts(suite).items)
            if cell.data is not None:
                trained = prompts_of.setdefault(cell.trained_model, {"": None})
                trained |= dict.fromkeys(self.opened(cell).captions())
        for config, prompts in prompts_of.items():
            self.prompt_store(config).fill(prompts)

    def rows(self, cell: CellConfig, model: ImageModel) -> EncodedRows:
        """The rows that a trained cell trains on, encoded; ``UserError`` where they cannot be."""
        data = cell.data
        assert data is not None
        key = repr((data, cell.trained_model))
        if key in self._rows:
            return self._rows[key]
        store = self.prompt_store(cell.trained_model)
        folder = self.cache_dir / cell.weights_digest
        rows = self.opened(cell).rows(model.encode_images, store.row, folder)
        store.fill(rows.prompts)
        # Rows that are encoded when they are asked for hold on to a model.
        if data.keeps_latents:
            self._rows[key] = rows
        return rows

    def opened(self, cell: CellConfig) -> TrainingSet:
        """The set that a trained cell's rows come from."""
        data = cell.data
        assert data is not None
        judges = {n: c.identity() for n, c in cell.judges.items() if n in data.select_by}
        key = repr((data, cell.model.resolution, judges))
        if key not in self._sets:
            # A judge is loaded when it is asked: rows that were selected before need none.
            scorers = {name: functools.partial(self._values, cell, name) for name in judges}
            folder = self.cache_dir / "sets"
            self._sets[key] = data.open(cell.model.resolution, scorers, judges, folder)
        return self._sets[key]

    def _values(self, cell: CellConfig, name: str, samples: Sequence[Sample]) -> list[float]:
        return [score.value for score in checked_scores(self.evaluator(cell, name), samples)]
