"""How much memory something takes, and how much there is."""

from __future__ import annotations

import ctypes
import gc
import resource
from pathlib import Path

import torch


class PeakMemory:
    """Peak memory above what was in use when this was made."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.idle = float(torch.cuda.memory_allocated(device))
            return
        # What glibc has freed but keeps would count as in use, and the update could live in it.
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
            trim(0)
        self.idle = proc_bytes("self/status", "VmRSS")
        # Loading may have peaked higher than it left; Linux lets a process forget its peak.
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self._is_reset = True
        except OSError:
            self._is_reset = False

    def above_idle(self) -> float:
        """MiB."""
        if self.device.type == "cuda":
            peak = float(torch.cuda.max_memory_allocated(self.device))
        elif self._is_reset:
            peak = proc_bytes("self/status", "VmHWM")
        else:
            # A sandbox may not let it forget: then too much is said rather than too little.
            peak = 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return (peak - self.idle) / 2**20


def proc_bytes(file: str, entry: str) -> float:
    """An entry of a file in /proc, which are in kB."""
    lines = Path("/proc", file).read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{entry}:")]
    return 1024.0 * float(line.split()[1])
