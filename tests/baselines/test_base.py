"""Rows of a batch."""

from dataclasses import replace

import torch

from baselines.base import Batch


def test_selected_rows_keep_the_empty_prompt_as_one_row_in_memory():
    empty = torch.tensor([[5.0, 6.0]])
    batch = Batch(
        tensors={"x0": torch.arange(4.0)},
        condition={"label": torch.eye(4)},
        negative_condition={"label": empty.expand(4, 2)},
        prompts=list("abcd"),
        columns={"row": [10, 11, 12, 13]},
        positions=(20, 21, 22, 23),
    )
    part = batch.select([3, 1])
    assert part["x0"].tolist() == [3, 1]
    assert torch.equal(part.condition["label"], torch.eye(4)[[3, 1]])
    assert (part.prompts, part.columns, part.positions) == (["d", "b"], {"row": [13, 11]}, [23, 21])
    negative = part.negative_condition["label"]
    assert negative.tolist() == [[5, 6], [5, 6]]
    assert negative.data_ptr() == empty.data_ptr()
    # Rows of their own are selected like all others.
    own = replace(batch, negative_condition={"label": torch.arange(8.0).view(4, 2)})
    assert own.select([2, 0]).negative_condition["label"].tolist() == [[4, 5], [0, 1]]
