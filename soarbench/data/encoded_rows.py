"""Rows as training reads them: a prompt's condition, and an image's latents if they are needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from PIL import Image
from torch import Tensor

from baselines.loop.stream import Row, Shapes
from soarbench.data.buckets import Size

EncodeImages = Callable[[Sequence[Image.Image]], Tensor]
ConditionOf = Callable[[str], Mapping[str, Tensor]]
ColumnsOf = Callable[[str], Mapping[str, object]]


def no_columns(_prompt: str) -> Mapping[str, object]:
    """Rewards are told nothing but the prompt."""
    return {}


@dataclass(frozen=True)
class EncodedRows:
    """Rows of training data, read one by one.

    ``latents`` gives a row's scaled clean latents, float32; null: rows have none. They and
    conditions are on the CPU. ``columns`` gives what rewards are told of a prompt.
    """

    prompts: Sequence[str]
    latents: Callable[[int], Tensor] | None
    condition: ConditionOf
    sizes: Sequence[Size]
    columns: ColumnsOf = no_columns

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> Row:
        prompt = self.prompts[index]
        row: Row = {
            "condition": self.condition(prompt),
            "prompt": prompt,
            "columns": self.columns(prompt),
        }
        if self.latents is not None:
            row["x0"] = self.latents(index)
        return row

    def without_latents(self) -> EncodedRows:
        """The same prompts, for a method that makes its own images."""
        return replace(self, latents=None)

    def shapes(self, block: int) -> Shapes | None:
        """Which rows can go through a model together; null: all."""
        if self.latents is None:
            return None
        numbers = {size: number for number, size in enumerate(sorted(set(self.sizes)))}
        return Shapes(of_row=[numbers[size] for size in self.sizes], block=block)
