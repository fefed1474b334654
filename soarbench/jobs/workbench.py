"""The heavy half of a run: loaded models, training rows and judges, shared by a process's cells."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from accelerate.utils import gather
from PIL import Image
from rich.console import Console
from torch import nn

from baselines.base import Method, World
from baselines.flow import draw_noise
from baselines.loop.arguments import allow_determinism, check_device
from baselines.loop.owner import Owner
from baselines.loop.post_train import post_train
from baselines.loop.stream import row_generator
from baselines.rewards.base import RewardError, runs_elsewhere, score_images
from evaluators.base import Evaluator, EvaluatorError, JudgeConfig
from evaluators.diversity.config import DiversityConfig, Measure
from soarbench.common.errors import UserError
from soarbench.common.judge_errors import of_judge
from soarbench.config.run import ProcessesConfig
from soarbench.data.prompts import PromptItem
from soarbench.diagnostics.measured import Measured, States
from soarbench.diagnostics.probes import Probing, make_probes
from soarbench.diagnostics.settings import NUM_PROBES
from soarbench.evaluation.drawing import Draw as Drawer
from soarbench.evaluation.seeds import evaluation_generators
from soarbench.evaluation.selection import refuse_overlap, suite_prompts
from soarbench.grid import addresses
from soarbench.grid.cell import CellConfig
from soarbench.jobs.base import Job, OnStep
from soarbench.jobs.diversity import Diversity
from soarbench.jobs.draw import Draw
from soarbench.jobs.judge import Judge
from soarbench.jobs.loaded import LoadedModel
from soarbench.jobs.probe import FollowedJob
from soarbench.jobs.reward_scales import reward_scales
from soarbench.jobs.rewards import reward_of, reward_parts, try_reward
from soarbench.jobs.snapshots import refuse_repetition
from soarbench.jobs.train import Train, trained_folder
from soarbench.jobs.training_sets import TrainingSets
from soarbench.models.adapters import adapter_root
from soarbench.models.base import ImageModel
from soarbench.models.devices import gpu_readings, torch_device
from soarbench.models.quiet import quiet_libraries
from soarbench.planning.demand import demand_of
from soarbench.planning.planner import choices, require_fit, settled
from soarbench.store.artefact import Store
from soarbench.store.machine import sampling
from soarbench.store.training import TrainingFolder, TrainingLog

ONE_PROCESS = ProcessesConfig()


class ModelWorkbench:
    """Loads what cells need, once, and does their heavy work."""

    def __init__(self, device: str, store: Store, processes: ProcessesConfig = ONE_PROCESS) -> None:
        self.device = torch_device(device)
        self.store = store
        self.processes = processes
        self.sets = TrainingSets(self.device, store.cache_dir, self.evaluator)
        self.models = LoadedModel(self.device, store, self.sets)
        self._evaluators: dict[JudgeConfig, Evaluator] = {}
        self._measures: dict[DiversityConfig, Measure] = {}
        self._scales: Mapping[str, float] = {}
        # Denormal numbers appear in late training and are a hundred times slower on a CPU.
        torch.set_flush_denormal(True)
        quiet_libraries()

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Load and try everything that jobs depend on, so that faults show before they start.

        ``UserError`` where training does not fit on the GPU; a model, a judge, the data or a reward
        cannot be used; or training and evaluation prompts overlap.
        """
        # What is quick to find out comes first: devices, sizes, indices of models, files of data.
        trained = _cells(job for job in jobs if isinstance(job, Train))
        drawn = _cells(job for job in jobs if isinstance(job, (Train, Draw, FollowedJob)))
        self._check_devices(trained, jobs)
        models = {cell.model: cell for cell in drawn}
        for config in models:
            config.check_source()
            if config.adapter is not None:
                adapter_root(config.adapter)
        for config, cell in models.items():
            # Published weights are tried on their base, before judges are loaded.
            if config.adapter is not None:
                self.models.load(cell)
        for cell in trained:
            self.sets.opened(cell).measure()
        try:
            for job in jobs:
                if isinstance(job, Judge):
                    self.evaluator(job.cell, job.judge)
                elif isinstance(job, Diversity):
                    self.diversity(job.cell, job.measure)
            self._try_training(trained, drawn)
        except (EvaluatorError, RewardError) as error:
            judges = {name: judge for job in jobs for name, judge in job.cell.judges.items()}
            raise UserError(of_judge(error, judges)) from error

    def _check_devices(self, trained: Sequence[CellConfig], jobs: Sequence[Job]) -> None:
        if trained and self.device.index:
            # transformers trains on the first GPU that it sees.
            raise UserError(
                f"device={self.device}: training takes the first GPU; name it on the command line, "
                f"or set CUDA_VISIBLE_DEVICES={self.device.index} with device=cuda"
            )
        for cell in trained:
            assert cell.training is not None
            assert cell.optim is not None
            if cell.training.deterministic:
                allow_determinism()
            try:
                check_device(cell.training, cell.optim, self.device)
            except ValueError as error:
                raise UserError(str(error)) from error
        if self.device.type == "cuda":
            for cell in trained:
                _refuse_encoding_in_workers(cell)
            refuse_repetition(jobs, self.store)
            # A public tool's default ran out of memory on an 80 GB card (flow_grpo issue 25).
            gpu = torch.cuda.get_device_properties(self.device)
            require_fit(trained, self.processes, name=gpu.name, memory=self._memory())

    def _memory(self) -> float:
        """Bytes of the smallest GPU that trains, so that all processes choose alike."""
        # Of those that this process sees: a worker that tries jobs has one of them.
        many = min(self.processes.count, torch.cuda.device_count())
        devices = [torch.device("cuda", i) for i in range(many)] if many > 1 else [self.device]
        return min(torch.cuda.get_device_properties(one).total_memory for one in devices)

    def _try_training(self, trained: Sequence[CellConfig], drawn: Sequence[CellConfig]) -> None:
        """Try what training needs, once all prompts are encoded: both never share a GPU."""
        for cell in trained:
            for name in cell.judges:
                self.evaluator(cell, name)
        if not drawn:
            return
        self.sets.encode_prompts(drawn)
        model = self.models.load(drawn[0])
        for cell in trained:
            _check_targets(cell, model.transformer)
        # Of all cells: a suite of another task is as spoilt by a training prompt as one's own.
        suites = [suite_prompts(suite) for cell in drawn for suite in cell.suites.values()]
        for cell in trained:
            rows = self.sets.rows(cell, model)
            refuse_overlap(set(rows.prompts), suites)
            if cell.rewards:
                try_reward(reward_of(cell, self.evaluator), rows, model)

    def evaluator(self, cell: CellConfig, judge: str) -> Evaluator:
        """A cell's judge by its name, loaded once, when it has proved that it works."""
        config = cell.judges[judge]
        if config not in self._evaluators:
            evaluator = config.build()
            evaluator.check_canaries()
            self._evaluators[config] = evaluator
        return self._evaluators[config]

    def diversity(self, cell: CellConfig, measure: str) -> Measure:
        """A cell's measure of diversity by its name, loaded once."""
        config = cell.diversity[measure]
        if config not in self._measures:
            self._measures[config] = config.build()
        return self._measures[config]

    # Training

    def train(self, cell: CellConfig, on_step: OnStep) -> dict[str, float]:
        """Train a cell to its end, from its last checkpoint on, and leave snapshots.

        -> Its cost: optimizer_steps, images_seen, forward_equivalents, reward_calls, seconds.
        """
        cell = self._settled(cell)
        assert cell.method is not None
        assert cell.training is not None
        assert cell.optim is not None
        assert cell.data is not None
        block = cell.data.rows_per_shape
        self._scales = self._reward_scales(cell)
        folder, model = trained_folder(self.store, cell), self.models.load_start(cell)
        rows = self.sets.rows(cell, model)
        if cell.method.trains_on == "prompts":
            rows = rows.without_latents()
        owner = Owner.current(folder.root)
        with TrainingLog(folder) as training_log, self._watched(folder):

            def on_log(step: int, values: Mapping[str, float]) -> None:
                training_log.append(step, values)
                on_step(step, f"loss {values['train/loss']:.4f}" if "train/loss" in values else "")

            summary = post_train(
                model.transformer,
                self.method(cell, model),
                rows,
                cell.training,
                folder.root,
                optim=cell.optim,
                lora=cell.lora,
                ema=cell.ema,
                seed=cell.seed,
                velocity_of=model.velocity,
                negative_condition=self.sets.prompt_store(cell.trained_model).encode([""]),
                on_log=on_log,
                shapes=None if block is None else rows.shapes(block),
                # The grid's own bars show the progress.
                console=Console(quiet=True),
                # Images are drawn in it: what else the weights hold would be rounded off there.
                snapshot_dtype=getattr(torch, cell.model.dtype),
                snapshot_steps=cell.steps,
                parallelism=self.processes.parallelism,
                journal=training_log,
                owner=owner,
            )
        return {name: float(value) for name, value in dataclasses.asdict(summary).items()}

    def _watched(self, folder: TrainingFolder) -> AbstractContextManager[None]:
        """Keep how busy this machine is; of processes that train together, the first one does."""
        if os.environ.get("RANK", "0") != "0":
            return contextlib.nullcontext()
        if self.device.type != "cuda":
            return sampling(folder.machine_path, gpu=None)
        # Without an index, cuda is the current one.
        index = torch.cuda.current_device() if self.device.index is None else self.device.index
        return sampling(folder.machine_path, gpu=functools.partial(gpu_readings, index))

    def _settled(self, cell: CellConfig) -> CellConfig:
        """A cell with what it leaves to the GPUs' memory chosen, which its folder then says."""
        if self.device.type != "cuda":
            return cell
        chosen = settled(cell, self.processes, self._memory())
        if chosen != cell and os.environ.get("RANK", "0") == "0":
            values = choices(demand_of(cell, self.processes), chosen)
            trained_folder(self.store, cell).note_choices(values)
        return chosen

    def method(self, cell: CellConfig, model: ImageModel) -> Method:
        """A cell's method, with its reward where it has one."""
        assert cell.method is not None
        reward = reward_of(cell, self.evaluator, self._scales) if cell.method.needs_reward else None
        world = World(
            schedule=model.schedule,
            latent_shape=model.latent_shape,
            reward=None if reward is None else functools.partial(score_images, reward),
            decode=model.decode,
            is_reward_elsewhere=runs_elsewhere(reward, self.device),
            gather=gather,
            # As the launcher says: asking accelerate would fix the device too early.
            rank=int(os.environ.get("RANK", "0")),
            generator_at=functools.partial(row_generator, cell.seed),
        )
        return cell.method.build(world)

    def _reward_scales(self, cell: CellConfig) -> dict[str, float]:
        """Each reward's spread over images of the base, measured once; none where not asked for."""
        if cell.reward_sampling is None:
            return {}
        folder = trained_folder(self.store, cell)
        if scales := folder.reward_scales():
            return scales
        # Of the base and not of a first stage: so all trainings of a grid have equal scales.
        model = self.models.load(cell)
        rows = self.sets.rows(cell, model)
        # By what the address says, also where a cell by another sampler has it trained again.
        draw = self._drawing(dataclasses.replace(cell, sampling=cell.reward_sampling), model)
        scales = reward_scales(reward_parts(cell, self.evaluator), rows, draw)
        if os.environ.get("RANK", "0") == "0":
            folder.note_reward_scales(scales)
        return scales

    # Sampling

    def drawer(self, cell: CellConfig, step: int) -> Drawer:
        """What draws images with the weights of a step, until others are asked for."""
        return self._drawing(cell, self.models.at(cell, step))

    def _drawing(self, cell: CellConfig, model: ImageModel) -> Drawer:
        """Draws images of prompts as a cell's evaluation does."""
        negative = model.encode_prompts([""])

        def draw(batch: Sequence[tuple[PromptItem, int]]) -> list[Image.Image]:
            generators = evaluation_generators([(item.prompt_id, i) for item, i in batch])
            latents = model.sample(
                model.encode_prompts([item.prompt for item, _ in batch]),
                {k: v.expand(len(batch), *v.shape[1:]) for k, v in negative.items()},
                draw_noise(model.latent_shape, generators, torch.device("cpu")),
                cell.sampling.num_inference_steps,
                cell.sampling.guidance_scale,
                state_noise=cell.sampling.state_noise,
                generators=generators,
            )
            return model.decode(latents)

        return draw

    def base_states(self, cell: CellConfig, source: CellConfig) -> States:
        """Where sampling without training leads from the path of images of ``probe``."""
        return self._probing(cell, source, 0).drifted()

    def probe(
        self, cell: CellConfig, source: CellConfig, step: int, *, states: States | None
    ) -> Measured:
        """Measure a step's weights along images of the data of ``source``, held-out ones if any."""
        probing = self._probing(cell, source, step)
        return Measured(
            norms=probing.norms(), exposure=[] if states is None else probing.exposure(states)
        )

    def _probing(self, cell: CellConfig, source: CellConfig, step: int) -> Probing:
        model = self.models.at(cell, step)
        data = None if source.data is None else source.data.held_out(NUM_PROBES)
        rows = self.sets.rows(dataclasses.replace(source, data=data), model)
        return Probing(
            model=model,
            rows=make_probes(rows, model),
            batch_size=cell.sampling.images_at_once(cell.model.resolution),
            num_inference_steps=cell.sampling.num_inference_steps,
            guidance_scale=cell.sampling.guidance_scale,
        )

    def scheduler_facts(self, cell: CellConfig) -> Mapping[str, object]:
        """The sampler's class and shift, for the fingerprint."""
        return self.models.scheduler_facts(cell)


def _refuse_encoding_in_workers(cell: CellConfig) -> None:
    """``UserError`` where processes that load data would need the GPU, which is not theirs."""
    assert cell.method is not None
    assert cell.training is not None
    assert cell.data is not None
    is_encoding = cell.method.trains_on == "images" and not cell.data.keeps_latents
    if is_encoding and cell.training.num_workers > 0:
        raise UserError(
            f"training.num_workers={cell.training.num_workers} with data.cache_latents=false: "
            "images would be encoded in processes that cannot use the GPU; use "
            "training.num_workers=0 or data.cache_latents=true"
        )


def _check_targets(cell: CellConfig, transformer: nn.Module) -> None:
    """``UserError`` where an adapter's layers are not there: peft passes over some of them."""
    named = () if cell.lora is None else cell.lora.target_modules or ()
    paths = [f".{path}" for path, _ in transformer.named_modules()]
    for name in named:
        if not any(path.endswith(f".{name}") for path in paths):
            raise UserError(
                f"lora.target_modules={list(named)}: {type(transformer).__name__} has no layer "
                f"{name!r}; leave them out to take {', '.join(cell.model.lora_targets)}"
            )


def _cells(jobs: Iterable[Job]) -> list[CellConfig]:
    """The cells of jobs, each once."""
    return list({addresses.cell_id(job.cell): job.cell for job in jobs}.values())
