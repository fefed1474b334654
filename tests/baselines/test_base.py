"""Rows of a batch."""

import torch

from baselines.base import Batch


def test_selected_rows_are_copies_in_the_given_order():
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
    # One row seen twice would be rounded differently.
    assert negative.is_contiguous()
