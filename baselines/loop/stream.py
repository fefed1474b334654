"""The order in which rows are trained on: a pure function of (seed, position).

Position ``p`` of the stream names one row and one random generator. Batches, accumulation,
processes and resumed runs only decide who works on which positions and when.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import NotRequired, Protocol, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, RandomSampler, Sampler
from typing_extensions import override

from baselines.base import Batch

# Keeps apart the generators of epochs, of rows and of shapes, which share the seed.
_EPOCH_STREAM, _ROW_STREAM, _SHAPE_STREAM = 0, 1, 2


class Row(TypedDict):
    """One row of training data; ``x0`` are scaled clean latents. Tensors have no batch axis."""

    x0: NotRequired[Tensor]
    condition: Mapping[str, Tensor]
    prompt: str
    columns: NotRequired[Mapping[str, object]]


class RowSource(Protocol):
    """Any sequence of rows, for example a memory-mapped one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...


StreamItem = tuple[int, Row]
"""A position in the stream and the row there."""


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """A number for the shape of each row, and how many consecutive positions hold one shape.

    Blocks of the stream begin at multiples of ``block``; micro-batches divide it.
    """

    of_row: Sequence[int]
    block: int


@dataclass(eq=False)
class TrainingStream(Dataset[StreamItem]):
    """Epochs of shuffled rows, one after the other, without end but for ``length``.

    ``group_size`` consecutive positions hold the same row (Flow-GRPO's group). Rows of several
    ``shapes``, which groups cannot have, come in the blocks of ``block_order``. ``ValueError``
    where there are no rows.
    """

    rows: RowSource
    _: KW_ONLY
    length: int
    group_size: int = 1
    seed: int = 0
    shapes: Shapes | None = None

    def __post_init__(self) -> None:
        if len(self.rows) == 0:
            raise ValueError(
                "the training data has 0 rows; check the path and the filter (a threshold that no "
                "row reaches leaves nothing)"
            )
        if self.shapes is not None and len(set(self.shapes.of_row)) == 1:
            self.shapes = None
        assert self.shapes is None or self.group_size == 1, "groups are rollouts of one shape"
        self._epoch = -1
        self._order: list[int] = []

    def __len__(self) -> int:
        return self.length

    @override
    def __getitem__(self, position: int) -> StreamItem:
        return position, self.rows[self.row_index(position)]

    def row_index(self, position: int) -> int:
        """Index of the row at a position."""
        # The epoch is absolute, not of this process: resuming repeats nothing.
        repeats = self.group_size if self.shapes is None else self.shapes.block
        epoch, place = divmod(position, len(self.rows) * repeats)
        if epoch != self._epoch:
            if self.shapes is not None:
                self._order = block_order(self.shapes, self.seed, epoch)
            else:
                seed = _seed_of(self.seed, epoch, stream=_EPOCH_STREAM)
                rows = RandomSampler(self.rows, generator=torch.Generator().manual_seed(seed))
                self._order = [row for row in rows for _ in range(self.group_size)]
            self._epoch = epoch
        return self._order[place]


def block_order(shapes: Shapes, seed: int, round_index: int) -> list[int]:
    """Rows of one round: blocks of one shape, every row as often as a block is long.

    A shape with n rows has n blocks, which go through ``block`` shuffles of its rows one after the
    other; one with fewer rows than a block repeats them in it. At any time each shape is within two
    blocks of its share.
    """
    of_row = np.asarray(shapes.of_row)
    times, blocks = [], []
    for shape in sorted(set(shapes.of_row)):
        rng = np.random.default_rng(
            np.random.SeedSequence((seed, round_index, int(shape)), spawn_key=(_SHAPE_STREAM,))
        )
        members = np.flatnonzero(of_row == shape)
        shuffles = np.concatenate([rng.permutation(members) for _ in range(shapes.block)])
        blocks.append(shuffles.reshape(len(members), shapes.block))
        # The r-th block comes at a random time in [r / n, (r + 1) / n) of the round: an order drawn
        # over all blocks would let a rare shape come all at once.
        times.append((np.arange(len(members)) + rng.random(len(members))) / len(members))
    order = np.argsort(np.concatenate(times), kind="stable")
    return [int(row) for row in np.concatenate(blocks)[order].ravel()]


def _seed_of(seed: int, number: int, *, stream: int) -> int:
    """A seed for one epoch or one position of a run."""
    entropy = np.random.SeedSequence((seed, number), spawn_key=(stream,))
    return int(entropy.generate_state(1, np.uint64)[0] >> 1)


def row_generator(seed: int, position: int) -> torch.Generator:
    """The generator of one position."""
    # On the CPU: every device then draws the same numbers.
    return torch.Generator().manual_seed(_seed_of(seed, position, stream=_ROW_STREAM))


@dataclass(kw_only=True, eq=False)
class CollectionSampler(Sampler[list[int]]):
    """Batches of positions, update by update, and rank by rank within an update.

    With ``updates_per_collection`` U the first of U updates gets the rows of all of them,
    consecutive on each rank; the others get none.
    """

    num_updates: int
    rows_per_rank: int
    world_size: int
    updates_per_collection: int

    # accelerate's BatchSamplerShard, which deals the batches out to processes in this order, reads
    # both: batches vary in length, and none is left over.
    batch_size = None
    drop_last = True

    def __len__(self) -> int:
        return self.num_updates * self.world_size

    @override
    def __iter__(self) -> Iterator[list[int]]:
        share = self.rows_per_rank * self.updates_per_collection
        for update in range(self.num_updates):
            first = update * self.rows_per_rank * self.world_size
            is_collection = update % self.updates_per_collection == 0
            for rank in range(self.world_size):
                start = first + rank * share
                yield list(range(start, start + share)) if is_collection else []


def micro_batches(num_rows: int, num_updates: int, micro_batch_size: int) -> list[list[list[int]]]:
    """Rows of a process's collection by forward. -> ``[update][micro-batch][row]``."""
    # Row q belongs to update q % num_updates, so that every update sees part of every group.
    updates = [list(range(first, num_rows, num_updates)) for first in range(num_updates)]
    size = micro_batch_size
    return [[rows[i : i + size] for i in range(0, len(rows), size)] for rows in updates]


def stack_rows(items: Sequence[StreamItem]) -> Batch:
    """Rows of one shape as a batch; the empty prompt's condition is the trainer's to add."""
    rows = [row for _, row in items]
    first = rows[0]
    names = first["condition"]
    return Batch(
        tensors={"x0": torch.stack([row["x0"] for row in rows])} if "x0" in first else {},
        condition={name: torch.stack([row["condition"][name] for row in rows]) for name in names},
        negative_condition={},
        prompts=[row["prompt"] for row in rows],
        columns={name: [row["columns"][name] for row in rows] for name in first.get("columns", {})},
        positions=[position for position, _ in items],
    )


def collate(items: Sequence[StreamItem], size: int | None = None) -> list[Batch]:
    """Rows of a collection on one process: together, or ``size`` of one shape at a time."""
    # There are none in an update that trains on rows collected earlier.
    step = size or len(items) or 1
    return [stack_rows(items[i : i + step]) for i in range(0, len(items), step)]
