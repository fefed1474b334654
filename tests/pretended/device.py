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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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
    import torch

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


class Pretended:
    """What happened on the device inside ``pretended``.

    Attributes:
        waits: Places of our code at which the CPU waited for the device, and how often.
        now: Bytes that live tensors hold.
        peak: Most of them at a time.
    """

    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()
        self.now = 0
        self.peak = 0
        self._seen: set[int] = set()

    def count(self, storage: Any) -> None:
        """Count a storage until it is freed."""
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen:
            self._seen.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


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


@contextlib.contextmanager
def pretended() -> Iterator[Pretended]:
    """Inside the block tensors have no content, and the device is watched."""
    import torch
    from torch import nn
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    seen = Pretended()
    aten = torch.ops.aten
    # Operations whose kernels refuse mixed types; without content torch looks at shapes alone.
    same_type = {aten.mm.default, aten.addmm.default, aten.index_add.default}

    def is_on_gpu(value: object) -> bool:
        return isinstance(value, torch.Tensor) and value.device.type == "cuda"

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self,
            func: Callable[..., object],
            types: object,
            args: Sequence[Any] = (),
            kwargs: Mapping[str, Any] | None = None,
        ) -> object:
            if func in same_type:
                kinds = {
                    t.dtype for t in tree_leaves(args) if is_on_gpu(t) and t.is_floating_point()
                }
                if len(kinds) > 1:
                    raise RuntimeError(f"{func} of {sorted(map(str, kinds))}")
            if func is aten._pin_memory.default:
                return args[0]
            if func is aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
                if is_on_gpu(args[0]):
                    seen.waits[_place()] += 1
                # There is no content to read: a number that every branch on it goes on with.
                kind = args[0].dtype
                return True if kind == torch.bool else 0.5 if kind.is_floating_point else 1
            if func is aten.equal.default:
                seen.waits[_place()] += any(map(is_on_gpu, args))
                return True
            output = func(*args, **(kwargs or {}))
            outputs = [t for t in tree_leaves(output) if isinstance(t, torch.Tensor)]
            if is_on_gpu(args[0] if args else None) and any(not is_on_gpu(t) for t in outputs):
                seen.waits[_place()] += 1
            for tensor in filter(is_on_gpu, outputs):
                seen.count(tensor.untyped_storage())
            return output

    def apply(module: nn.Module, fn: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
        """As torch's, which swaps the tensors in place; a fake tensor refuses that."""
        for child in module.children():
            apply(child, fn)
        for name, parameter in module._parameters.items():
            if parameter is not None:
                changed = fn(parameter.detach())
                if changed.dtype != parameter.dtype or changed.device != parameter.device:
                    module._parameters[name] = nn.Parameter(
                        changed, requires_grad=parameter.requires_grad
                    )
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fn(buffer)
        return module

    torch_apply = nn.Module._apply
    nn.Module._apply = lambda module, fn, recurse=True: apply(module, fn)  # type: ignore[method-assign, assignment]
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), Watch():
            yield seen
    finally:
        nn.Module._apply = torch_apply  # type: ignore[method-assign]
