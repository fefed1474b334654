"""A CUDA device that does not exist: tensors have shapes, types and the device, but no content.

torch's own dispatch, autocast, choice of attention kernel, autograd and accelerate take their CUDA
paths, since a preloaded libcudart (``cudart.c``) says that one GPU is there. What cannot be told
apart from a real one are devices and types; what is left out are the kernels and their numbers.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.pretended.runtime import ROOT

_PACKAGES = ("soarbench", "baselines", "evaluators")


class Pretended(TorchDispatchMode):
    """Watches every operation on the device.

    Attributes:
        waits: Places of our code at which the CPU waited for the device, and how often.
        uploads: Places that copied to the device from memory that is not pinned, which waits, too.
        kernels: Names of attention's and the optimiser's kernels that were chosen.
        now: Bytes that live tensors hold.
        peak: Most of them at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self.kernels: set[str] = set()
        self._pinned: set[int] = set()
        self.now = 0
        self.peak = 0
        self._sizes: dict[int, int] = {}
        self._is_real = True

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Collection[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Run an operation, and note where it waits and what it makes."""
        if DTensor in types:
            return NotImplemented  # its parts come back here
        if func.namespace == "prim":  # on which device one is, which is asked twice an operation
            return func(*args, **(kwargs or {}))
        return self._watched(func, args, kwargs or {})

    def _watched(
        self, func: Callable[..., object], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> object:
        if func in _CONTENT and any(isinstance(value, FakeTensor) for value in args):
            self.waits.update([_place()] * any(map(_is_on_gpu, args)))
            return _CONTENT[func](args[0])
        if func is _ATEN._pin_memory.default:
            pinned = torch.empty_like(args[0])
            storage = pinned.untyped_storage()
            self._pinned.add(storage._cdata)
            weakref.finalize(storage, self._pinned.discard, storage._cdata)
            return pinned
        if self._waits_for_upload(func, args, kwargs):
            self.uploads[_place()] += 1
        if func in _SAME_TYPE:
            kinds = {t.dtype for t in tree_leaves(args) if _is_on_gpu(t) and t.is_floating_point()}
            if len(kinds) > 1:
                raise RuntimeError(f"{func} of {sorted(map(str, kinds))}")
        if "attention" in str(func) or "adam" in str(func):
            self.kernels.add(str(func).split(".")[1])
        output = func(*args, **kwargs)
        tensors = [value for value in tree_leaves(output) if isinstance(value, Tensor)]
        if any(map(_is_on_gpu, args)) and not all(map(_is_on_gpu, tensors)):
            self.waits[_place()] += 1
        for tensor in filter(_is_on_gpu, tensors):
            self._count(tensor.untyped_storage())
        return output

    def _waits_for_upload(
        self, func: Callable[..., object], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> bool:
        """Whether an operation copies from memory that the device cannot fetch from by itself."""
        if func is _ATEN._to_copy.default:
            source, target = args[0], torch.device(kwargs.get("device") or args[0].device)
            is_asynchronous = kwargs.get("non_blocking", False)
        elif func is _ATEN.copy_.default:
            source, target = args[1], args[0].device
            is_asynchronous = kwargs.get("non_blocking", len(args) > 2 and args[2])
        else:
            return False
        is_pinned = source.untyped_storage()._cdata in self._pinned
        is_upload = source.device.type == "cpu" and target.type == "cuda"
        return is_upload and not (is_asynchronous and is_pinned)

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if key not in self._sizes and self._is_real:
            self._change(key, storage.nbytes())
            weakref.finalize(storage, self._forget, key)

    def _change(self, key: int, size: int) -> None:
        self.now += size - self._sizes.get(key, 0)
        self._sizes[key] = size
        self.peak = max(self.peak, self.now)

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key)

    def resize(self, storage: torch.UntypedStorage, size: int) -> torch.UntypedStorage:
        """As ``UntypedStorage.resize_``, by which FSDP2 takes and frees what it has gathered."""
        if storage._cdata in self._sizes:
            self._change(storage._cdata, size)
        return _RESIZE(storage, size)

    def propagate(self, *arguments: object) -> object:
        """As DTensor finds out the shape of a result: by tensors of whole shape that are none."""
        self._is_real, before = False, self._is_real
        try:
            return _PROPAGATE(*arguments)
        finally:
            self._is_real = before


_RESIZE = torch.UntypedStorage.resize_
_PROPAGATE = ShardingPropagator._propagate_tensor_meta_non_cached


def _number(tensor: Tensor) -> bool | int | float:
    """What stands for content: a number that every branch on it goes on with."""
    if tensor.dtype == torch.bool:
        return True
    return 0.5 if tensor.is_floating_point() else 1


_ATEN = torch.ops.aten
#: Operations that read content, or move it to where it can be read, and what they give instead.
_CONTENT: Mapping[object, Callable[[Tensor], object]] = {
    _ATEN._local_scalar_dense.default: _number,
    _ATEN.equal.default: lambda _: True,
}
#: Operations whose kernels refuse mixed types; without content torch looks at shapes alone.
_SAME_TYPE = {_ATEN.mm.default, _ATEN.addmm.default, _ATEN.index_add.default}


def _is_on_gpu(value: object) -> bool:
    return isinstance(value, Tensor) and value.device.type == "cuda"


def _place() -> str:
    """The innermost line of the packages on the stack, or of a library that they called."""
    # By hand: the frames of ``traceback`` come with the text of their lines, which takes long.
    innermost = frame = sys._getframe(2)
    while frame is not None:
        name, path = frame.f_code.co_name, _own_path(frame.f_code.co_filename)
        if path and not name.startswith("<"):  # comprehensions, which newer Pythons inline
            return f"{path}:{name}"
        frame = frame.f_back
    return f"{Path(innermost.f_code.co_filename).name}:{innermost.f_code.co_name}"


@functools.cache
def _own_path(filename: str) -> str:
    """Where a file of the packages is in the repository; empty of any other file."""
    path = Path(filename)
    is_own = path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in _PACKAGES
    return str(path.relative_to(ROOT)) if is_own else ""


def _apply(module: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """As ``nn.Module._apply``, which swaps tensors in place; a fake tensor refuses that."""
    for child in module.children() if recurse else ():
        _apply(child, fn)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            changed = fn(parameter.detach())
            if (changed.dtype, changed.device) != (parameter.dtype, parameter.device):
                kept = nn.Parameter(changed, requires_grad=parameter.requires_grad)
                module._parameters[name] = kept
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = fn(buffer)
    return module


@contextlib.contextmanager
def pretended() -> Iterator[Pretended]:
    """Inside the block tensors have no content, and the device is watched."""
    watch, meta = Pretended(), "_propagate_tensor_meta_non_cached"
    # Functions, not bound methods: what they take the place of gets the object first.
    with (
        mock.patch.object(nn.Module, "_apply", _apply),
        mock.patch.object(torch.UntypedStorage, "resize_", lambda *words: watch.resize(*words)),
        mock.patch.object(ShardingPropagator, meta, lambda *words: watch.propagate(*words)),
        FakeTensorMode(allow_non_fake_inputs=True),
        watch,
    ):
        yield watch
