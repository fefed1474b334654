"""How a run's configuration reads in the words of ``transformers``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import TrainingArguments

from baselines.config import OptimConfig, TrainingConfig
from baselines.loop.sharding import DDP, sharding_arguments

#: Names of the optimisers in ``transformers``.
_OPTIMIZERS = {"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_bnb_8bit"}


@contextlib.contextmanager
def deterministic_kernels(is_asked: bool) -> Iterator[None]:
    """Inside the block torch takes deterministic kernels only, if that is asked.

    ``RuntimeError`` by torch where an operation has none.
    """
    if not is_asked:
        yield
        return
    allow_determinism()
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.benchmark = before[1]


def allow_determinism() -> None:
    """Give cuBLAS the work space with which it is deterministic; before its first product."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def check_device(training: TrainingConfig, optim: OptimConfig, device: torch.device) -> None:
    """``ValueError`` for a precision or an optimiser that a device does not have."""
    is_cuda = device.type == "cuda"
    if optim.optimizer == "adamw_8bit" and not is_cuda:
        raise ValueError(
            f"optim.optimizer=adamw_8bit: runs on CUDA devices, not on {device.type}; use adamw"
        )
    wants_bf16 = is_cuda and training.mixed_precision == "bf16"
    # Emulated bf16 would be slower than float32, and as coarse as bf16.
    if wants_bf16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError(
            f"training.mixed_precision=bf16: {torch.cuda.get_device_name(device)} has no bf16 "
            "arithmetic; use training.mixed_precision=no"
        )


def training_arguments(
    training: TrainingConfig,
    optim: OptimConfig,
    folder: Path,
    device: torch.device,
    *,
    seed: int,
    parallelism: str = DDP,
) -> TrainingArguments:
    """Arguments for ``PostTrainer``; also joins the process group where there is one.

    ``ValueError`` where the device or the installation cannot do what the configuration asks for.
    """
    check_device(training, optim, device)
    optim.check_packages()
    # transformers' plain "constant" would leave out the warm-up.
    schedule = "constant_with_warmup" if optim.schedule == "constant" else optim.schedule
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=training.steps,
        learning_rate=optim.learning_rate,
        lr_scheduler_type=schedule,
        warmup_steps=optim.warmup_steps,
        # transformers spares biases, the published AdamW does not: in 10,000 updates of SOAR that
        # is 0.2 % of a bias.
        weight_decay=optim.weight_decay,
        adam_beta1=optim.betas[0],
        adam_beta2=optim.betas[1],
        max_grad_norm=optim.max_grad_norm,
        optim=_OPTIMIZERS[optim.optimizer],
        bf16=training.mixed_precision == "bf16",
        seed=seed,
        save_strategy="no",  # SaveRhythm asks for checkpoints, MarkComplete removes them
        logging_steps=training.logging_steps,
        logging_nan_inf_filter=False,  # would log the loss before instead of one that is no number
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=device.type == "cpu",
        dataloader_num_workers=training.num_workers,
        dataloader_pin_memory=device.type == "cuda",
        accelerator_config={"non_blocking": device.type == "cuda"},
        **sharding_arguments(parallelism),
    )
    arguments.per_device_train_batch_size = training.rows_per_process(arguments.world_size)
    # One process drives one device; torch's DataParallel would split rows a second time.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments
