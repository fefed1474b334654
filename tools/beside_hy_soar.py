"""SOAR's update beside HY-SOAR's own: loss, gradient, seconds and peak memory on one model.

``python tools/beside_hy_soar.py CHECKOUT [--rounds N] [key=value ...]``: CHECKOUT is a copy of
Tencent-Hunyuan/HY-SOAR, whose own loop body and auxiliary points are run as they stand there; the
rest are settings of ``plan``, and ``device``. Weights and rows are random. Without VAE, text
encoders and DeepSpeed; both forms share AdamW and the clipping. On a CPU, seconds are the process's
own, of one thread with ``OMP_NUM_THREADS=1``.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import importlib.util
import inspect
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from unittest import mock

import torch
from accelerate import Accelerator
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from baselines.base import Batch, Condition, Policies, VelocityModel
from baselines.flow import training_sigmas
from baselines.loop.stream import row_generator
from baselines.loop.velocity import casts_kept
from baselines.loop.weights import prepare_transformer
from baselines.schedule import StaticShift
from baselines.soar import Soar
from baselines.soar_config import SoarConfig
from soarbench.benchmarks.full_size import RandomRows, random_transformer
from soarbench.benchmarks.memory import PeakMemory
from soarbench.benchmarks.methods import LIVE_MEMORY
from soarbench.common.errors import UserError
from soarbench.config.overrides import parse_overrides
from soarbench.models.devices import torch_device
from soarbench.planning.demand import PlanOptions, read_request
from soarbench.planning.memory_and_time import Demand

#: Of SD3's training schedule, in both codes.
SHIFT = 3.0
OURS, THEIRS, RACE = "ours", "HY-SOAR", "race"


def training_module(checkout: Path) -> ModuleType:
    """Their training script, imported and not run; ``UserError`` where there is none."""
    package = checkout / "soar"
    if not (package / "train_soar_sd3_5m.py").is_file():
        raise UserError(f"{checkout}: no soar/train_soar_sd3_5m.py there; clone HY-SOAR into it")
    # It imports itself under another name than its folder has.
    spec = importlib.util.spec_from_file_location(
        "sora", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec is not None
    sys.modules["sora"] = importlib.util.module_from_spec(spec)
    return importlib.import_module("sora.train_soar_sd3_5m")


def update_of(source: str) -> CodeType:
    """What a training script's ``accumulate`` block does from drawing ``z_1`` to the backward.

    ``UserError`` where it has no such block.
    """
    blocks = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.With)]
    bodies = [with_.body for with_ in blocks if "accumulate" in ast.unparse(with_.items[0])]
    lines = [ast.unparse(line) for line in bodies[0]] if bodies else []
    first = [i for i, line in enumerate(lines) if line.startswith("z_1 =")]
    last = [i for i, line in enumerate(lines) if line.startswith("accelerator.backward(")]
    if not (first and last):
        raise UserError("the training script has another form than at HY-SOAR's 59f0e02")
    return compile(ast.Module(bodies[0][first[0] : last[0] + 1], []), "HY-SOAR", "exec")


class Step:
    """One model with rows; an update of either form."""

    def __init__(self, checkout: Path, demand: Demand, device: torch.device) -> None:
        self.script = training_module(checkout)
        self.their_update = update_of(inspect.getsource(self.script))
        architecture = demand.model.architecture()
        rows = RandomRows(demand, architecture)
        self.config = demand.method
        assert isinstance(self.config, SoarConfig)
        if self.config.num_rollout_paths != 1:
            raise UserError("method.num_rollout_paths: 1 is compared, whose paths draw nothing")
        dtype = getattr(torch, demand.model.dtype)
        transformer = random_transformer(architecture, dtype).to(device)
        self.accelerator = Accelerator(
            mixed_precision=demand.training.mixed_precision, cpu=device.type == "cpu"
        )
        trained = prepare_transformer(transformer, demand.training, demand.lora)
        self.model: nn.Module = self.accelerator.prepare(trained.train())
        self.velocity = architecture.velocity(self.model)
        self.batch = self._batch(rows, device)
        self.scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
        self.method = Soar(self.config, schedule=StaticShift(SHIFT))
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        # The weights stay as they are, so that every step computes the same.
        self.optimizer = torch.optim.AdamW(self.parameters, lr=0.0, fused=True)
        self.max_grad_norm = demand.optim.max_grad_norm
        self.names = self._names(demand)

    def _batch(self, rows: RandomRows, device: torch.device) -> Batch:
        stacked = [rows[i] for i in range(len(rows))]
        condition = {
            name: torch.stack([row["condition"][name] for row in stacked]) for name in rows.sizes
        }
        empty = rows.condition(torch.Generator().manual_seed(-1))
        negative = {
            name: value.expand(len(rows), *value.shape).clone() for name, value in empty.items()
        }
        x0 = torch.stack([row["x0"] for row in stacked])
        prompts, positions = [row["prompt"] for row in stacked], range(len(rows))
        return Batch({"x0": x0}, condition, negative, prompts, positions=positions).to(device)

    def _names(self, demand: Demand) -> dict[str, object]:
        """What their loop body finds around itself."""
        required = ["--pretrained_model_name_or_path=", "--jsonl_path=", "--image_dir="]
        with mock.patch.object(sys, "argv", ["train", *required]):
            args = self.script.parse_args()
        args.trajectory_length = self.config.num_aux_points
        args.num_sampling_steps = self.config.num_inference_steps
        args.cfg_scale_sampling = self.config.guidance_scale
        args.lambda_aux = self.config.aux_weight
        is_bf16 = demand.training.mixed_precision == "bf16"
        weight_dtype = torch.bfloat16 if is_bf16 else torch.float32
        batch, negative = self.batch, self.batch.negative_condition
        return {
            **vars(self.script),
            "args": args,
            "accelerator": self.accelerator,
            "transformer": self.model,
            "weight_dtype": weight_dtype,
            "noise_scheduler_train": self.scheduler,
            "z_0": batch["x0"].to(weight_dtype),
            "bsz": len(batch),
            "prompt_embeds": batch.condition["prompt_embeds"].to(weight_dtype),
            "pooled_prompt_embeds": batch.condition["pooled_prompt_embeds"].to(weight_dtype),
            "uncond_hidden_states": negative["prompt_embeds"][:1].to(weight_dtype),
            "uncond_pooled_embeds": negative["pooled_prompt_embeds"][:1].to(weight_dtype),
        }

    def theirs(self) -> float:
        """Loss, with its gradient left on the parameters."""
        exec(self.their_update, self.names)
        loss = self.names["loss_total"]
        assert isinstance(loss, Tensor)
        return loss.item()

    def ours(self, batch: Batch | None = None, velocity: VelocityModel | None = None) -> float:
        """As ``theirs``; with draws of its own, or a ``batch`` that has them."""
        velocity = velocity or self.velocity
        generators = [row_generator(0, position) for position in self.batch.positions]
        batch = batch or self.method.collect(Policies(velocity), self.batch, generators).batch
        weight, sums = self.method.weight(batch), []
        with casts_kept(self.accelerator.device):
            for term in self.method.losses(Policies(velocity), batch):
                self.accelerator.backward(term.loss_sum / weight)
                sums.append(term.loss_sum.detach())
        return (torch.stack(sums).sum() / weight).item()

    def floored(self, latents: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """The model, told levels between those of the training grid as they tell them."""
        algorithm, scheduler = sys.modules["sora.utils.algorithm"], self.scheduler
        is_on_grid = torch.isin(sigma, scheduler.sigmas.to(sigma.device))
        _, timestep = algorithm.t_to_sigma_timestep(
            algorithm.sigma_to_t(sigma, scheduler), scheduler
        )
        sigma = torch.where(is_on_grid, sigma, timestep / 1000)
        return self.velocity(latents, sigma, condition)

    def their_batch(self) -> Batch:
        """Our rows with the draws of their last update."""
        names, config, shape = self.names, self.config, (len(self.batch), 1)
        t0 = names["t0"].cpu()
        t1 = (t0 - 1 / config.num_inference_steps).clamp(min=0)
        x0 = self.batch["x0"]
        return self.batch.with_tensors(
            t0=t0,
            noise=names["z_1"].float(),
            sigma=training_sigmas(t0, SHIFT).to(x0.device),
            sigma_next=training_sigmas(t1, SHIFT).to(x0.device),
            sigma_aux=torch.stack([point["sigmas"] for point in names["aux_points"]], 1)[:, None],
            path_exists=torch.ones(shape, dtype=torch.bool),
            path_noise=x0.new_empty(len(x0), 0, *x0.shape[1:]),
        )

    def update(self, form: str) -> float:
        """Seconds of a whole update."""
        is_cuda = self.accelerator.device.type == "cuda"
        clock = time.perf_counter if is_cuda else time.process_time
        start = clock()
        self.theirs() if form == THEIRS else self.ours()
        nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if is_cuda:
            torch.cuda.synchronize()
        return clock() - start

    def gradient(self) -> Tensor:
        """Taken off the parameters, as one vector."""
        parts = [p.grad.flatten() for p in self.parameters if p.grad is not None]
        self.optimizer.zero_grad()
        return torch.cat(parts)


def differences(step: Step) -> dict[str, float]:
    """Relative, at equal draws: with each one's own levels, and with theirs in both."""
    torch.manual_seed(0)
    expected, reference = step.theirs(), step.gradient()
    batch, result = step.their_batch(), {}
    for name, velocity in (("own levels", step.velocity), ("their levels", step.floored)):
        loss, gradient = step.ours(batch, velocity), step.gradient()
        result[f"loss, {name}"] = abs(loss - expected) / abs(expected)
        result[f"gradient, {name}"] = ((gradient - reference).norm() / reference.norm()).item()
    return result


def race(step: Step, rounds: int) -> dict[str, object]:
    """Seconds in turns, after a round that warms up; and the differences."""
    step.update(THEIRS), step.update(OURS)
    pairs = [(step.update(THEIRS), step.update(OURS)) for _ in range(rounds)]
    theirs, ours = zip(*pairs, strict=True)
    ratios = [mine / other for other, mine in pairs]
    series = {THEIRS: theirs, OURS: ours, "ours / HY-SOAR": ratios}
    return {name: spread(values) for name, values in series.items()} | differences(step)


def spread(values: Sequence[float]) -> str:
    """Median, and the ends."""
    return f"{statistics.median(values):.3f} [{min(values):.3f}, {max(values):.3f}]"


def peak(step: Step, form: str, device: torch.device) -> dict[str, object]:
    """Of the second update, which has AdamW's moments as all later ones have; MiB above idle."""
    memory = PeakMemory(device)
    for _ in range(2):
        step.update(form)
    return {f"peak memory, {form}, MiB": round(memory.above_idle())}


def measure(options: argparse.Namespace) -> dict[str, object]:
    """One kind of measurement; ``UserError`` where the checkout or a setting cannot be used."""
    words = [word for word in options.words if not word.startswith("device=")]
    device = torch_device(parse_overrides(options.words).text("device") or "cpu")
    (demand,) = read_request(PlanOptions(), ["method=soar", *words]).demands.values()
    # Libraries that the script imports may write to stdout.
    with contextlib.redirect_stdout(sys.stderr):
        step = Step(options.checkout, demand, device)
        if options.only == RACE:
            return race(step, options.rounds)
        return peak(step, options.only, device)


def main() -> int:
    """Measure everything, each form's memory in a process of its own, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=(RACE, OURS, THEIRS))
    parser.add_argument("words", nargs="*")
    options = parser.parse_intermixed_args()
    if options.only is not None:
        try:
            result = measure(options)
        except UserError as error:
            sys.stderr.write(f"{error}\n")
            return 2
        sys.stdout.write(json.dumps(result, indent=1) + "\n")
        return 0
    for kind in (RACE, OURS, THEIRS):
        live = {} if kind == RACE else LIVE_MEMORY
        command = [sys.executable, *sys.argv, "--only", kind]
        code = subprocess.run(command, check=False, env=os.environ | live).returncode
        if code != 0:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
