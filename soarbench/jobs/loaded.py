"""The model of a process: one at a time, and as little of it loaded anew as can be."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from baselines.loop.weights import load_transformer, start_from, with_trained_part
from soarbench.grid import addresses
from soarbench.grid.cell import CellConfig
from soarbench.jobs.train import trained_folder
from soarbench.jobs.training_sets import TrainingSets
from soarbench.models.adapters import apply_adapter
from soarbench.models.base import ImageModel, ModelConfig
from soarbench.store.artefact import Store


@dataclass(frozen=True)
class _Loaded:
    """A model that draws, what it was before training, and the part that a training exchanges.

    ``trained`` is None as long as nothing has been put onto it, and ``weights`` say what has.
    """

    model: ImageModel
    base: tuple[object, ...]
    trained: tuple[object, ...] | None = None
    weights: Path | None = None


def _base_of(cell: CellConfig) -> tuple[object, ...]:
    """What a cell's training starts from: two cells with equal ones start from equal weights."""
    return cell.model, *map(addresses.cell_id, cell.lineage)


def _trained_part(cell: CellConfig) -> tuple[object, ...]:
    """Which weights a training exchanges, and how they compute."""
    assert cell.training is not None
    return cell.lora, cell.training.compile


class LoadedModel:
    """Loads the pipelines of cells, each in the place of the one before."""

    def __init__(self, device: torch.device, store: Store, sets: TrainingSets) -> None:
        self._device = device
        self._store = store
        self._sets = sets
        self._loaded: _Loaded | None = None
        self._facts: dict[ModelConfig, Mapping[str, object]] = {}

    def let_go(self) -> None:
        """Free the memory of the model that was loaded last."""
        self._loaded = None
        # Modules refer to each other in circles, so memory is not free before they are collected.
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def load(self, cell: CellConfig) -> ImageModel:
        """The base pipeline, fresh; what was loaded before is let go."""
        self.let_go()
        model = cell.model.load(self._device, self._sets.prompt_store(cell.model))
        if cell.model.adapter is not None:
            apply_adapter(model.transformer, cell.model.adapter, base=cell.model.path)
        shift = model.schedule.shift(model.latent_shape)
        self._facts[cell.model] = {"scheduler": model.scheduler_name, "shift": shift}
        return model

    def scheduler_facts(self, cell: CellConfig) -> Mapping[str, object]:
        """The sampler's class and shift, for the fingerprint."""
        # They outlive the model, which the next load lets go.
        if cell.model not in self._facts:
            self.load(cell)
        return self._facts[cell.model]

    def load_start(self, cell: CellConfig) -> ImageModel:
        """The pipeline that training starts from: the base's, or with a first stage's weights."""
        model = self.load(cell)
        if cell.parent is not None and cell.lora is None:
            # All weights are trained in float32: an adapter is merged in it, and rounded nowhere.
            model.transformer.float()
        return self._with_stages(cell, model)

    def _with_stages(self, cell: CellConfig, model: ImageModel) -> ImageModel:
        """A pipeline with the weights of the stages that a cell starts after."""
        for stage in cell.lineage:
            folder = trained_folder(self._store, stage)
            start_from(model.transformer, folder.snapshot(stage.steps[-1]))
        return model

    def at(self, cell: CellConfig, step: int) -> ImageModel:
        """The pipeline with the weights of a step of training; 0 is what it started from.

        One model at a time: the next call may put other weights onto it.
        """
        if not self._takes(cell, step):
            # Named nowhere else, so that it is gone before the next one is loaded.
            self._loaded = _Loaded(self._with_stages(cell, self.load(cell)), _base_of(cell))
        if step > 0:
            self._exchange(cell, trained_folder(self._store, cell).snapshot(step))
        assert self._loaded is not None
        return self._loaded.model

    def _takes(self, cell: CellConfig, step: int) -> bool:
        """Whether the loaded model can be given the weights of a step."""
        loaded = self._loaded
        if loaded is None or loaded.base != _base_of(cell):
            return False
        if loaded.trained is None:
            return True
        return step > 0 and loaded.trained == _trained_part(cell)

    def _exchange(self, cell: CellConfig, weights: Path) -> None:
        """Put the weights of a step onto the loaded model, unless they are there."""
        assert cell.training is not None
        # Nothing counts as loaded meanwhile: a fault would leave weights of two steps.
        loaded, self._loaded = self._loaded, None
        assert loaded is not None
        # All suites of a step follow each other.
        if loaded.weights != weights:
            model = loaded.model
            if loaded.trained is None:
                model.transformer = with_trained_part(model.transformer, cell.training, cell.lora)
                # Drawn in the base's precision, whatever it was trained in. Only an adapter is of
                # another one: peft makes it in float32.
                dtype = getattr(torch, cell.model.dtype)
                model.transformer.to(dtype).requires_grad_(False).eval()
            load_transformer(model.transformer, weights)
        self._loaded = replace(loaded, trained=_trained_part(cell), weights=weights)
