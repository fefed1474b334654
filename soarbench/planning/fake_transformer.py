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
from torch.library import Library
from torch.nn.functional import layer_norm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import override

from baselines.config import LoraConfig, TrainingConfig
from baselines.loop.velocity import casts_kept
from baselines.loop.weights import prepare_transformer
from soarbench.models.base import Architecture, ModelConfig
from soarbench.planning.memory_and_time import Parameters, Passes

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


@contextmanager
def cuda_layer_norm() -> Iterator[None]:
    """Inside the block the CPU's autocast computes layer norms in float32, as CUDA's does."""
    # And so keeps their inputs in float32; nothing else that a transformer runs differs.
    library = Library("aten", "IMPL")
    library.impl("layer_norm", _float32_layer_norm, "AutocastCPU")
    try:
        yield
    finally:
        library._destroy()


def _float32_layer_norm(
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    _cudnn: bool = True,
) -> Tensor:
    scale, shift = (None if tensor is None else tensor.float() for tensor in (weight, bias))
    with torch.autocast("cpu", enabled=False):
        return layer_norm(x.float(), list(shape), scale, shift, eps)


@dataclass(frozen=True)
class MetaModel:
    """The transformer of a run without its numbers; without ``lora`` all weights are trained.

    ``in_shards``: each forward casts its weights anew, as the loop has them then.
    """

    # The real modules run, so that shapes, autocast, adapters and gradient checkpointing are those
    # of training.

    architecture: Architecture
    model: ModelConfig
    training: TrainingConfig
    lora: LoraConfig | None = None
    in_shards: bool = False

    def parameters(self) -> Parameters:
        """How many numbers the model holds."""
        with self._built(self.architecture) as transformer:
            sizes = [(p.numel(), p.requires_grad) for p in transformer.parameters()]
            return Parameters(
                total=sum(size for size, _ in sizes),
                trained=sum(size for size, is_trained in sizes if is_trained),
                buffers=sum(buffer.numel() for buffer in transformer.buffers()),
            )

    def forward(self) -> tuple[float, float]:
        """Of one row without gradients: floating-point operations, and bytes at the peak."""
        operations, peak = self._over_layers(self._forward)
        return float(operations), float(peak)

    def forward_flops(self) -> float:
        """Floating-point operations of one forward of one row."""
        return self.forward()[0]

    def passes(self, rows: int) -> Passes:
        """What forwards and backwards of ``rows`` hold at their peak."""
        # A forward and a backward each grow evenly with the layers, the larger of the two does not.
        peaks = self._over_layers(lambda transformer: self._peaks(transformer, rows))
        return Passes(first=float(peaks[:2].max()), later=float(peaks[2:].max()))

    def rollout(self, rows: int) -> float:
        """Bytes at the peak of a forward of ``rows`` without gradients, as collections have it."""
        return float(self._over_layers(lambda transformer: [self._unlearned(transformer, rows)])[0])

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
        with torch.device("meta"):
            transformer = transformer_of(architecture, getattr(torch, self.model.dtype))
        # Compiled layers keep what the plain ones keep, or less.
        training = replace(self.training, compile=False)
        with torch.device("meta"):
            prepared = prepare_transformer(transformer, training, self.lora).train()
        # Modules keep small constants as plain tensors, which the mode would otherwise refuse.
        with FakeTensorMode(allow_non_fake_inputs=True):
            _to_fake(prepared)
            yield prepared

    def _velocity(
        self, transformer: nn.Module, rows: int, *, is_mixed: bool
    ) -> Callable[[], Tensor]:
        latents = torch.empty(rows, *self.architecture.latent_shape(self.model.resolution))
        sigma = torch.empty(rows)
        sizes = self.architecture.condition_shapes(self.model.max_sequence_length)
        condition = {name: torch.empty(rows, *size) for name, size in sizes.items()}
        velocity = self.architecture.velocity(transformer)

        def run() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16) if is_mixed else nullcontext():
                return velocity(latents, sigma, condition)

        return run

    def _forward(self, transformer: nn.Module) -> tuple[float, float]:
        # As images are drawn: in the model's type, whatever it is trained in.
        _to_fake(transformer, getattr(torch, self.model.dtype))
        run = self._velocity(transformer, 1, is_mixed=False)
        counter = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
        live = LiveBytes([*transformer.parameters(), *transformer.buffers()])
        with torch.no_grad(), live, counter:
            run()
        return float(counter.get_total_flops()), float(live.peak)

    def _peaks(self, transformer: nn.Module, rows: int) -> list[float]:
        """Of forward and backward, twice: before there are gradients, and beside them."""
        run = self._velocity(transformer, rows, is_mixed=self._is_mixed)
        peaks = []
        with self._as_trained(transformer) as live:
            for _ in range(2):
                live.peak = live.now
                velocity = run()
                peaks.append(float(live.peak))
                live.peak = live.now
                velocity.float().square().mean().backward()
                del velocity
                peaks.append(float(live.peak))
        return peaks

    def _unlearned(self, transformer: nn.Module, rows: int) -> float:
        with self._as_trained(transformer) as live, torch.no_grad():
            # With its inputs: they are put together of the rows for this forward.
            self._velocity(transformer, rows, is_mixed=self._is_mixed)()
        return float(live.peak)

    @property
    def _is_mixed(self) -> bool:
        return self.training.mixed_precision == "bf16"

    @contextmanager
    def _as_trained(self, transformer: nn.Module) -> Iterator[LiveBytes]:
        """Counts what an update's forwards hold beside the model."""
        live = LiveBytes([*transformer.parameters(), *transformer.buffers()])
        kept = nullcontext() if self.in_shards else casts_kept(torch.device("cpu"))
        with live, kept, cuda_layer_norm():
            yield live


def transformer_of(architecture: Architecture, dtype: torch.dtype) -> nn.Module:
    """An architecture's transformer with initial weights, as a pipeline holds it in a type."""
    before = torch.get_default_dtype()
    # Of their type from the start: in float32 first, SD3.5-Medium would take 10 GB whatever the
    # type, and diffusers warns of converting later.
    torch.set_default_dtype(dtype)
    try:
        transformer = architecture.transformer()
    finally:
        torch.set_default_dtype(before)
    for module in transformer.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(dtype))  # made in float32 whatever the default
    return transformer


def _to_fake(model: nn.Module, dtype: torch.dtype | None = None) -> None:
    # A fake one says that it is on the CPU, where autocast works.
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            fake = torch.empty(parameter.shape, dtype=dtype or parameter.dtype)
            setattr(module, name, nn.Parameter(fake, requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=dtype or buffer.dtype))


def _attention_flops(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object
) -> int:
    """Two matrix products: scores, and their product with the values."""
    batch, heads, rows, width = query
    return 2 * batch * heads * rows * key[2] * (width + value[3])


#: torch counts the attention kernels of GPUs and leaves out the CPU's, which runs here.
_CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
