"""The heavy half of a run: loaded models, training rows and judges, shared by a process's cells."""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from accelerate.utils import gather
from PIL import Image
from rich.console import Console

from baselines.base import Method
from baselines.config import FlowGrpoConfig, SftConfig, SoarConfig
from baselines.flow_grpo import FlowGrpo
from baselines.loop.arguments import check_device
from baselines.loop.post_train import post_train
from baselines.loop.stream import Shapes
from baselines.loop.weights import load_transformer, prepare_transformer, start_from
from baselines.rewards.base import (
    LatentReward,
    RewardError,
    RewardFunction,
    refusal,
    resolve_reward,
    reward_name,
    score_images,
)
from baselines.rewards.evaluator import EvaluatorReward
from baselines.rewards.mixture import Mixture
from baselines.sft import Sft
from baselines.soar import Soar
from evaluators.base import Evaluator, EvaluatorError, JudgeConfig
from soarbench.common.errors import UserError
from soarbench.config.run import LauncherConfig
from soarbench.config.settings import CellConfig, ParentConfig, post_training
from soarbench.data.config import ImageDataConfig
from soarbench.data.prompts import PromptItem
from soarbench.data.rows import EncodedRows
from soarbench.evaluation.overlap import refuse_overlap
from soarbench.evaluation.protocol import planned_suite
from soarbench.evaluation.seeds import evaluation_noise
from soarbench.grid.checks import NAMED_REWARDS
from soarbench.jobs.draw import Draw
from soarbench.jobs.training_sets import TrainingSets
from soarbench.models.adapters import apply_adapter
from soarbench.models.config import LABORATORY, ModelConfig
from soarbench.models.hub import is_directory, require_pipeline
from soarbench.models.quiet import quiet_libraries
from soarbench.models.sd3.model import SD3Model
from soarbench.planning.fit import require_fit
from soarbench.store.cell_folder import CellFolder, TrainingLog

log = logging.getLogger(__name__)

ONE_PROCESS = LauncherConfig(name="local")

OnStep = Callable[[int, str], None]
"""Told the optimiser step that was done, and a note for the progress bar."""


def torch_device(name: str) -> torch.device:
    """The configured device; ``auto`` is CUDA where there is one.

    Raises:
        UserError: A CUDA device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device={name}: this machine has {torch.cuda.device_count()} CUDA devices; "
            "use device=auto or device=cpu"
        )
    return device


class Workbench:
    """Loads what cells need, once, and does their heavy work.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        cache_dir: For encoded prompts and images.
        launcher: How many processes train a cell, and how they share it.
    """

    def __init__(
        self, device: str, cache_dir: Path, launcher: LauncherConfig = ONE_PROCESS
    ) -> None:
        self.device = torch_device(device)
        self.launcher = launcher
        self.sets = TrainingSets(self.device, cache_dir, self.evaluator)
        self._evaluators: dict[JudgeConfig, Evaluator] = {}
        self._scheduler: dict[str, object] = {}
        # Denormal numbers appear in late training and are a hundred times slower on a CPU.
        torch.set_flush_denormal(True)
        quiet_libraries()

    def prepare(self, cells: Sequence[CellConfig]) -> None:
        """Load and try everything that training depends on, so that faults show before it starts.

        Raises:
            UserError: Training does not fit on the GPU; a model, a judge, the data or a reward
                cannot be used; or training and evaluation prompts overlap.
        """
        self._check_devices(cells)
        self._check_models({cell.model: cell for cell in cells})
        for cell in cells:
            if isinstance(cell.data, ImageDataConfig):
                self.sets.curation(cell, cell.data).measure()
        try:
            self._try_all(cells)
        except (EvaluatorError, RewardError) as error:
            raise UserError(str(error)) from error

    def _check_devices(self, cells: Sequence[CellConfig]) -> None:
        for cell in cells:
            self._check_device(cell)
        if self.device.type == "cuda":
            gpu = torch.cuda.get_device_properties(self.device)
            require_fit(cells, self.launcher, name=gpu.name, memory=gpu.total_memory)

    def _try_all(self, cells: Sequence[CellConfig]) -> None:
        for cell in cells:
            for config in cell.judges.values():
                self._evaluator(config)
        self.sets.encode_prompts(cells)
        model = self.load(cells[0])
        for cell in cells:
            if cell.data is not None:
                self._check_rows(cell, cells, model)
            if cell.rewards:
                self._try_reward(cell, model)

    def _check_models(self, cells: Mapping[ModelConfig, CellConfig]) -> None:
        """Look for hub ids, and try published weights on their base, before judges are loaded."""
        for config in cells:
            if config.path != LABORATORY and not is_directory(config.path):
                require_pipeline(config)
        for config, cell in cells.items():
            if config.adapter is not None:
                self.load(cell)

    def _check_device(self, cell: CellConfig) -> None:
        if cell.training is None or cell.optim is None:
            return
        loop = post_training(cell.training, cell.optim, cell.lora, cell.ema, cell.seed)
        try:
            check_device(loop, self.device)
        except ValueError as error:
            raise UserError(str(error)) from error

    def evaluator(self, cell: CellConfig, judge: str) -> Evaluator:
        """A cell's judge by its name."""
        return self._evaluator(cell.judges[judge])

    def _evaluator(self, config: JudgeConfig) -> Evaluator:
        if config not in self._evaluators:
            evaluator = config.build()
            evaluator.check_canaries()
            self._evaluators[config] = evaluator
        return self._evaluators[config]

    def load(self, cell: CellConfig) -> SD3Model:
        """The base pipeline, fresh."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        model = SD3Model.load(cell.model, self.device, self.sets.prompt_store(cell.model))
        if cell.model.adapter is not None:
            apply_adapter(model.transformer, cell.model.adapter, base=cell.model.path)
        self._scheduler = {
            "scheduler": type(model.pipeline.scheduler).__name__,
            "shift": model.training_shift,
        }
        return model

    def load_start(self, cell: CellConfig, folder: CellFolder) -> SD3Model:
        """The pipeline that training starts from: the base's, or with a first stage's weights."""
        model = self.load(cell)
        if cell.parent is not None and cell.lora is None:
            # All weights are trained on in float32, as the first stage left them.
            model.transformer.float()
        for stage in reversed(_lineage(cell.parent)):
            start_from(model.transformer, folder.sibling(stage.cell_id).snapshot(stage.step))
        return model

    # Training

    def train(self, cell: CellConfig, folder: CellFolder, on_step: OnStep) -> dict[str, float]:
        """Train a cell to its end, from its last checkpoint on; leaves snapshots.

        Returns:
            What it cost: optimizer_steps, images_seen, forward_equivalents, reward_calls, seconds.
        """
        assert cell.training is not None
        assert cell.optim is not None
        model = self.load_start(cell, folder)
        rows = self.training_rows(cell, model)
        if isinstance(cell.method, FlowGrpoConfig):
            rows = rows.without_latents()
        with TrainingLog(folder) as training_log:

            def on_log(step: int, values: Mapping[str, float]) -> None:
                training_log.append(step, values)
                on_step(step, f"loss {values['train/loss']:.4f}" if "train/loss" in values else "")

            summary = post_train(
                model.transformer,
                self.method(cell, model),
                rows,
                post_training(cell.training, cell.optim, cell.lora, cell.ema, cell.seed),
                folder.root,
                velocity_of=model.velocity,
                negative_condition=model.encode_prompts([""]),
                on_log=on_log,
                shapes=_shapes(rows, cell),
                # The grid's own bars show the progress.
                console=Console(quiet=True),
                parallelism=self.launcher.parallelism,
            )
        return {name: float(value) for name, value in dataclasses.asdict(summary).items()}

    def method(self, cell: CellConfig, model: SD3Model) -> Method:
        """A cell's method, with its reward where it has one."""
        shift = model.training_shift
        match cell.method:
            case SftConfig():
                return Sft(cell.method, shift=shift)
            case SoarConfig():
                return Soar(cell.method, shift=shift)
            case FlowGrpoConfig():
                return FlowGrpo(
                    cell.method,
                    shift=shift,
                    latent_shape=model.latent_shape,
                    reward=self._latent_reward(cell, model),
                    gather=gather,
                    # As the launcher says: asking accelerate would fix the device too early.
                    rank=int(os.environ.get("RANK", "0")),
                )
            case _:
                raise AssertionError("the base model is not trained")

    def _reward(self, cell: CellConfig) -> RewardFunction:
        parts: dict[str, RewardFunction] = {}
        for name in cell.rewards:
            judge = NAMED_REWARDS.get(name, name)
            if judge in cell.judges:
                parts[name] = EvaluatorReward(self.evaluator(cell, judge), name)
            else:
                parts[name] = resolve_reward(name)
        if list(cell.rewards.values()) == [1.0]:
            return next(iter(parts.values()))
        return Mixture(parts, cell.rewards)

    def _latent_reward(self, cell: CellConfig, model: SD3Model) -> LatentReward:
        return _of_latents(self._reward(cell), model)

    def training_rows(self, cell: CellConfig, model: SD3Model) -> EncodedRows:
        """The rows that a cell trains on, encoded."""
        return self.sets.rows(cell, model)

    def _check_rows(self, cell: CellConfig, cells: Sequence[CellConfig], model: SD3Model) -> None:
        rows = self.training_rows(cell, model)
        suites = [suite for other in cells for suite in other.suites.values()]
        refuse_overlap(set(rows.prompts), [planned_suite(suite) for suite in suites])

    def _try_reward(self, cell: CellConfig, model: SD3Model) -> None:
        """Ask the reward about two training pictures, once it can judge all prompts."""
        rows, reward = self.training_rows(cell, model), self._reward(cell)
        refused = [
            (prompt, why)
            for prompt in rows.prompts
            if (why := refusal(reward, prompt, rows.columns(prompt)))
        ]
        if refused:
            prompt, why = refused[0]
            raise UserError(
                f"reward {reward_name(reward)!r} cannot judge {len(refused)} of {len(rows)} "
                f"training prompts, e.g. {prompt!r}: {why}. Train on prompts that it can judge "
                "(in the laboratory data.kinds=[text] or other kinds), or mix it with a reward "
                "for the others"
            )
        tried = [rows[index] for index in range(min(2, len(rows)))]
        columns = {name: [row["columns"][name] for row in tried] for name in tried[0]["columns"]}
        images = [model.decode(row["x0"][None].to(self.device))[0] for row in tried]
        score_images(reward, [row["prompt"] for row in tried], images, columns)

    # Sampling

    def model_at(self, cell: CellConfig, folder: CellFolder, step: int) -> SD3Model:
        """The pipeline with the weights of a step of training; 0 is what it started from."""
        model = self.load_start(cell, folder)
        if step > 0:
            assert cell.training is not None
            assert cell.optim is not None
            loop = post_training(cell.training, cell.optim, cell.lora, cell.ema, cell.seed)
            model.transformer = prepare_transformer(model.transformer, loop)
            load_transformer(model.transformer, folder.snapshot(step))
            model.transformer.to(getattr(torch, cell.model.dtype)).requires_grad_(False).eval()
        return model

    def drawer(self, cell: CellConfig, folder: CellFolder, step: int) -> Draw:
        """Load the weights of a step and return what draws images with them."""
        model = self.model_at(cell, folder, step)
        negative = model.encode_prompts([""])

        def draw(batch: Sequence[tuple[PromptItem, int]]) -> list[Image.Image]:
            pairs = [(item.prompt_id, index) for item, index in batch]
            latents = model.sample(
                model.encode_prompts([item.prompt for item, _ in batch]),
                {k: v.expand(len(batch), *v.shape[1:]) for k, v in negative.items()},
                evaluation_noise(pairs, model.latent_shape).to(self.device),
                cell.sampling.num_inference_steps,
                cell.sampling.guidance_scale,
            )
            return model.decode(latents)

        return draw

    def probe(self, cell: CellConfig, source: CellConfig, folder: CellFolder) -> Iterator[int]:
        """Follow a finished cell's models along held-out images of the data of ``source``.

        Returns:
            Every step, as soon as it was measured.
        """
        from soarbench.diagnostics.probes import probe

        return probe(cell, source, folder, self)

    def scheduler_facts(self, cell: CellConfig) -> dict[str, object]:
        """The sampler's class and shift, for the fingerprint."""
        if not self._scheduler:
            self.load(cell)
        return self._scheduler


def _lineage(parent: ParentConfig | None) -> list[ParentConfig]:
    """The stages before a cell, the last one first."""
    return [] if parent is None else [parent, *_lineage(parent.parent)]


def _of_latents(reward: RewardFunction, model: SD3Model) -> LatentReward:
    """A reward of images as one of latents."""

    def of_latents(
        prompts: Sequence[str], latents: torch.Tensor, columns: Mapping[str, Sequence[object]]
    ) -> list[float]:
        return score_images(reward, prompts, model.decode(latents), columns)

    return of_latents


def _shapes(rows: EncodedRows, cell: CellConfig) -> Shapes | None:
    """Which rows of a cell can go through the model together; null: all."""
    return (
        rows.shapes(cell.data.rows_per_bucket) if isinstance(cell.data, ImageDataConfig) else None
    )
