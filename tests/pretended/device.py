"""A CUDA device that does not exist: tensors have shapes, types and the device, but no content.

torch's own dispatch, autocast, choice of attention kernel, autograd and accelerate take their CUDA
paths, since a preloaded libcudart (``cudart.c``) says that one GPU is there. What cannot be told
apart from a real one are devices and types; what is left out are the kernels and their numbers.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import traceback
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

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RUNTIME = "libpretended.so"
_PACKAGES = ("soarbench", "baselines", "evaluators")


class Unavailable(RuntimeError):
    """A pretended device cannot be had here; says why."""


def build(folder: Path) -> None:
    """Build the pretended runtime and driver.

    Raises:
        Unavailable: torch is not built for CUDA 13, or there is no C compiler.
    """
    if (torch.version.cuda or "").partition(".")[0] != "13":
        raise Unavailable(f"torch {torch.__version__} is not built for CUDA 13")
    import nvidia.cu13

    headers = Path(next(iter(nvidia.cu13.__path__))) / "include"
    # -w: functions that only say yes take no notice of what they are given.
    command = ["cc", "-w", "-shared", "-fPIC", "-O1", f"-I{HERE / 'include'}", f"-I{headers}"]
    for source, target in (("cudart.c", RUNTIME), ("cuda.c", "libcuda.so.1")):
        name = f"-Wl,-soname,{target}"
        try:
            subprocess.run([*command, name, "-o", folder / target, HERE / source], check=True)
        except FileNotFoundError as error:
            raise Unavailable("there is no C compiler (cc)") from error


def run(folder: Path, module: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a module with the device that ``build`` put into a folder."""
    kept = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    shown = {"LD_PRELOAD": str(folder / RUNTIME), "LD_LIBRARY_PATH": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        env=kept | shown | {"OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


class Pretended(TorchDispatchMode):
    """Watches every operation on the device.

    Attributes:
        waits: Places of our code at which the CPU waited for the device, and how often.
        kernels: Names of attention's and the optimiser's kernels that were chosen.
        now: Bytes that live tensors hold.
        peak: Most of them at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.kernels: set[str] = set()
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
        if func in _CONTENT and any(isinstance(value, FakeTensor) for value in args):
            self.waits.update([_place()] * any(map(_is_on_gpu, args)))
            return _CONTENT[func](args[0])
        if func in _SAME_TYPE:
            kinds = {t.dtype for t in tree_leaves(args) if _is_on_gpu(t) and t.is_floating_point()}
            if len(kinds) > 1:
                raise RuntimeError(f"{func} of {sorted(map(str, kinds))}")
        if "attention" in str(func) or "adam" in str(func):
            self.kernels.add(str(func).split(".")[1])
        output = func(*args, **(kwargs or {}))
        tensors = [value for value in tree_leaves(output) if isinstance(value, Tensor)]
        if any(map(_is_on_gpu, args)) and not all(map(_is_on_gpu, tensors)):
            self.waits[_place()] += 1
        for tensor in filter(_is_on_gpu, tensors):
            self._count(tensor.untyped_storage())
        return output

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
    _ATEN._pin_memory.default: lambda tensor: tensor,
}
#: Operations whose kernels refuse mixed types; without content torch looks at shapes alone.
_SAME_TYPE = {_ATEN.mm.default, _ATEN.addmm.default, _ATEN.index_add.default}


def _is_on_gpu(value: object) -> bool:
    return isinstance(value, Tensor) and value.device.type == "cuda"


def _place() -> str:
    """The innermost line of the packages on the stack, or of a library that they called."""
    frames = traceback.extract_stack()[:-2]
    for frame in reversed(frames):
        path = Path(frame.filename)
        if frame.name.startswith("<"):  # comprehensions, which newer Pythons inline
            continue
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in _PACKAGES:
            return f"{path.relative_to(ROOT)}:{frame.name}"
    return f"{Path(frames[-1].filename).name}:{frames[-1].name}"


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
