"""What a forward and a backward of the transformer cost, from fake tensors: no weight exists."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import override

from baselines.config import LoraConfig, TrainingConfig
from baselines.loop.weights import prepare_transformer
from soarbench.models.base import Architecture, ModelConfig
from soarbench.planning.memory_and_time import Parameters

FloatArray = NDArray[np.float64]
Measure = Callable[[nn.Module], Sequence[float]]
#: Models of fewer layers are run as they are.
_FEW_LAYERS = 6


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are alive, but for those that are ``known`` before."""

    # torch's own MemTracker agrees to the last digit, but takes ten times as long and fails with
    # adapters, to whose frozen weights it cannot add a hook.

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}

    @override
    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        return output

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._seen:
            return
        self._seen.add(storage._cdata)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, address: int, size: int) -> None:
        self._seen.discard(address)
        self.now -= size


@dataclass(frozen=True)
class MetaModel:
    """The transformer of a run without its numbers; without ``lora`` all weights are trained."""

    # The real modules run, so that shapes, autocast, adapters and gradient checkpointing are those
    # of training: peaks come out within 15 % of measured ones.

    architecture: Architecture
    model: ModelConfig
    training: TrainingConfig
    lora: LoraConfig | None = None

    def parameters(self) -> Parameters:
        """How many numbers the model holds."""
        with self._built(self.architecture) as transformer:
            sizes = [(p.numel(), p.requires_grad) for p in transformer.parameters()]
            return Parameters(
                total=sum(size for size, _ in sizes),
                trained=sum(size for size, is_trained in sizes if is_trained),
                buffers=sum(buffer.numel() for buffer in transformer.buffers()),
            )

    def forward_flops(self) -> float:
        """Floating-point operations of one forward of one row."""
        return float(self._over_layers(self._flops)[0])

    def activation_bytes(self, rows: int) -> float:
        """Most bytes alive in a forward and backward of ``rows``, beside weights and gradients."""
        # Each phase grows evenly with the layers, the larger of the two does not.
        return float(self._over_layers(lambda transformer: self._peaks(transformer, rows)).max())

    def _over_layers(self, measure: Measure) -> FloatArray:
        """Measurements that grow evenly with the layers of each kind."""
        counts = self.architecture.layers
        if sum(counts) < _FEW_LAYERS:
            return self._measured(self.architecture, measure)
        # Layers of a kind cost the same. Two of each are run, since the first of a kind that is
        # recomputed sets a peak of its own. The last layer of all is of a kind alone, so every
        # small model has it.
        others = [min(count, 2) for count in counts[1:]]
        few = (4 - sum(others), *others)
        base = self._measured(self.architecture.with_layers(few), measure)
        total = base
        for kind, count in enumerate(counts):
            if count != few[kind]:
                more = [number + (index == kind) for index, number in enumerate(few)]
                added = self._measured(self.architecture.with_layers(more), measure) - base
                total = total + (count - few[kind]) * added
        return total

    def _measured(self, architecture: Architecture, measure: Measure) -> FloatArray:
        with self._built(architecture) as transformer:
            return np.array(measure(transformer), dtype=np.float64)

    @contextmanager
    def _built(self, architecture: Architecture) -> Iterator[nn.Module]:
        """The model under a mode in which tensors have shapes and no content."""
        before = torch.get_default_dtype()
        # New weights are of a type from the start: diffusers warns of converting them later.
        torch.set_default_dtype(getattr(torch, self.model.dtype))
        try:
            with torch.device("meta"):
                transformer = architecture.transformer()
        finally:
            torch.set_default_dtype(before)
        # Compiled layers keep what the plain ones keep, or less.
        training = replace(self.training, compile=False)
        with torch.device("meta"):
            prepared = prepare_transformer(transformer, training, self.lora).train()
        # Modules keep small constants as plain tensors, which the mode would otherwise refuse.
        with FakeTensorMode(allow_non_fake_inputs=True):
            _to_fake(prepared)
            yield prepared

    def _velocity(self, transformer: nn.Module, rows: int) -> Callable[[], Tensor]:
        latents = torch.empty(rows, *self.architecture.latent_shape(self.model.resolution))
        sigma = torch.empty(rows)
        sizes = self.architecture.condition_shapes(self.model.max_sequence_length)
        condition = {name: torch.empty(rows, *size) for name, size in sizes.items()}
        velocity = self.architecture.velocity(transformer)
        is_mixed = self.training.mixed_precision == "bf16"

        def run() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16) if is_mixed else nullcontext():
                return velocity(latents, sigma, condition)

        return run

    def _flops(self, transformer: nn.Module) -> tuple[float]:
        run = self._velocity(transformer, 1)
        counter = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
        with torch.no_grad(), counter:
            run()
        return (float(counter.get_total_flops()),)

    def _peaks(self, transformer: nn.Module, rows: int) -> tuple[float, float]:
        """Of the forward and of the backward, in the second of two passes."""
        # Gradients of the first pass are there then and stay, as under accumulation.
        run = self._velocity(transformer, rows)
        _backward(run())
        known = [*transformer.parameters(), *transformer.buffers()]
        known += [p.grad for p in transformer.parameters() if p.grad is not None]
        live = LiveBytes(known)
        with live:
            velocity = run()
            forward, live.peak = live.peak, live.now
            _backward(velocity)
        return float(forward), float(live.peak)


def _to_fake(model: nn.Module) -> None:
    # A fake one says that it is on the CPU, where autocast works.
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            fake = torch.empty(parameter.shape, dtype=parameter.dtype)
            setattr(module, name, nn.Parameter(fake, requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


def _backward(velocity: Tensor) -> None:
    velocity.float().square().mean().backward()


def _attention_flops(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object
) -> int:
    """Two matrix products: scores, and their product with the values."""
    batch, heads, rows, width = query
    return 2 * batch * heads * rows * key[2] * (width + value[3])


#: torch counts the attention kernels of GPUs and leaves out the CPU's, which runs here.
_CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
