"""Where on the nodes a job finds a place."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from soarbench.jobs.base import Needs
from soarbench.launchers.backend import PARTS, Node, Place, Share


class Room:
    """What of the nodes nobody has."""

    def __init__(self, nodes: Sequence[Node], places: Iterable[Place]) -> None:
        self._nodes = {node.name: node for node in nodes}
        self.parts = {(node.name, gpu): PARTS for node in nodes for gpu in range(node.gpus)}
        self.slots = Counter({node.name: node.slots for node in nodes})
        for place in places:
            self.take(place)

    def take(self, place: Place, count: int = 1) -> None:
        """Somebody has it now; -1 gives it back."""
        for share in place:
            self.slots[share.node] -= count * share.slots
            for gpu in share.gpus:
                # A node may be gone.
                if (share.node, gpu) in self.parts:
                    self.parts[share.node, gpu] -= count * share.parts

    @property
    def whole(self) -> dict[str, list[int]]:
        """Free GPUs by node."""
        free = {name: list[int]() for name in self._nodes}
        for (name, gpu), parts in self.parts.items():
            if parts == PARTS:
                free[name].append(gpu)
        return free

    def has(self, place: Place) -> bool:
        """Whether a place is free of jobs."""
        return all(
            self.slots[share.node] >= share.slots
            and all(self.parts.get((share.node, gpu), 0) >= share.parts for gpu in share.gpus)
            for share in place
        )

    def place(self, needs: Needs) -> Place | None:
        """Where a job could run; None as long as it has to wait."""
        if not self.parts or not (needs.gpus or needs.gpu_gb):
            return self._on_cores(1 if self.parts else max(needs.gpus, 1))
        return self._on_gpus(needs.gpus) if needs.gpus else self._on_part(needs.gpu_gb)

    def _on_cores(self, slots: int) -> Place | None:
        name, free = max(self.slots.items(), key=lambda item: item[1], default=("", 0))
        if free < 1:
            return None
        wanted = min(slots, self._nodes[name].slots)
        return (Share(name, slots=wanted),) if free >= wanted else None

    def _on_gpus(self, count: int) -> Place | None:
        free = self.whole
        # A job fits best where the fewest GPUs are free; one of many takes as few nodes as can be.
        roomy = [name for name in free if len(free[name]) >= count]
        if roomy:
            name = min(roomy, key=lambda one: len(free[one]))
            return (Share(name, tuple(free[name][:count])),)
        shares, missing = list[Share](), count
        for name in sorted(free, key=lambda one: -len(free[one])):
            gpus = tuple(free[name][:missing])
            if gpus:
                shares.append(Share(name, gpus))
            missing -= len(gpus)
        return tuple(shares) if missing == 0 else None

    def parts_for(self, gpu_gb: float, name: str) -> int:
        """Eighths of a node's GPU that hold so much."""
        memory = self._nodes[name].gpu_memory_gb
        return min(math.ceil(PARTS * gpu_gb / memory), PARTS) if memory else PARTS

    def _on_part(self, gpu_gb: float) -> Place | None:
        needed = {name: self.parts_for(gpu_gb, name) for name in self._nodes}
        fitting = [(parts, gpu) for gpu, parts in self.parts.items() if parts >= needed[gpu[0]]]
        if not fitting:
            return None
        # Beside others, so that whole ones stay free.
        _, (name, gpu) = min(fitting)
        return (Share(name, (gpu,), needed[name]),)

    def is_fit(self, place: Place, needs: Needs) -> bool:
        """Whether a worker there has what a job asks for, and not more."""
        if not self.parts or not (needs.gpus or needs.gpu_gb):
            slots = 1 if self.parts else max(needs.gpus, 1)
            return not place[0].gpus and place[0].slots == min(
                slots, self._nodes[place[0].node].slots
            )
        parts = PARTS if needs.gpus else self.parts_for(needs.gpu_gb, place[0].node)
        count = sum(len(share.gpus) for share in place)
        return count == max(needs.gpus, 1) and all(share.parts == parts for share in place)


def overlap(place: Place, other: Place) -> bool:
    """Whether two places have a GPU, or the cores of a node, in common."""
    return any(
        a.node == b.node and (set(a.gpus) & set(b.gpus) or (a.slots and b.slots))
        for a in place
        for b in other
    )
