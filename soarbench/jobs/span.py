"""The nodes whose processes train a cell together, as one of them sees it."""

# Without torch: who hands work out needs none.
from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

#: Tells a process its span.
SPAN = "SOARBENCH_SPAN"


@dataclass(frozen=True, kw_only=True)
class Span:
    """Processes on one node or several.

    Attributes:
        processes: On this node.
        nodes: How many there are.
        node: Which one this is; the first one leads.
        master: ``host:port`` at which several nodes meet.
        gpu_memory_gb: Of the smallest GPU of all nodes; 0 where it is not known.
    """

    processes: int
    nodes: int = 1
    node: int = 0
    master: str = ""
    gpu_memory_gb: float = 0.0

    @classmethod
    def current(cls, processes: int) -> Self:
        """Of this process; on this machine alone if nothing else is said."""
        text = os.environ.get(SPAN)
        return cls(processes=processes) if text is None else cls(**json.loads(text))

    @property
    def variable(self) -> dict[str, str]:
        """What tells a process that is started."""
        return {SPAN: json.dumps(dataclasses.asdict(self))}

    @property
    def words(self) -> list[str]:
        """For torch's launcher."""
        count = ["--nproc-per-node", str(self.processes)]
        if self.nodes == 1:
            return ["--standalone", *count]
        host, _, port = self.master.rpartition(":")
        place = ["--nnodes", str(self.nodes), "--node-rank", str(self.node)]
        return [*count, *place, "--master-addr", host, "--master-port", port]

    def logs(self, root: Path) -> list[Path]:
        """What the processes of each node say, in a training's folder."""
        # Of another node it is written through the shared folder.
        return [root / f"processes{f'-{i}' if i else ''}.log" for i in range(self.nodes)]
