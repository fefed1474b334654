"""Rows of several shapes: blocks of one shape, every row equally often, in every layout."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from baselines.loop.post_train import post_train
from baselines.loop.stream import (
    CollectionSampler,
    Shapes,
    TrainingStream,
    block_order,
    collate,
    micro_batches,
)
from tests.baselines.toys import Logs, run_config, sft, soar

#: Nine rows of one shape, four of another, one of a third.
OF_ROW = [0, 1, 0, 0, 2, 1, 0, 0, 1, 0, 0, 1, 0, 0]
SIZES = ((2, 4, 4), (2, 2, 8), (2, 8, 2))


class ShapedRows:
    """Latents of different heights and widths."""

    def __init__(self, of_row=OF_ROW):
        rng = torch.Generator().manual_seed(5)
        self.of_row = of_row
        self.x0 = [torch.randn(SIZES[shape], generator=rng) for shape in of_row]

    def __len__(self):
        return len(self.x0)

    def __getitem__(self, index):
        label = torch.full((1,), float(index))
        return {"x0": self.x0[index], "condition": {"label": label}, "prompt": f"row {index}"}


class Pixelwise(ModelMixin, ConfigMixin):
    """A velocity of every pixel by itself, so that any size goes in."""

    @register_to_config
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, latents, sigma):
        level = sigma[:, None, None, None].expand(-1, 1, *latents.shape[2:])
        return self.last(nn.functional.silu(self.first(torch.cat([latents, level], 1))))


class PixelwiseVelocity:
    def __init__(self, model):
        self.model = model

    def __call__(self, latents, sigma, _condition):
        return self.model(latents=latents, sigma=sigma)


def shapes(block=4, of_row=OF_ROW):
    return Shapes(of_row=of_row, block=block)


def train(folder, config, *, method=sft, logs=None, block=4):
    torch.manual_seed(0)
    model = Pixelwise()
    post_train(
        model,
        method(),
        ShapedRows(),
        folder=folder,
        **config,
        velocity_of=PixelwiseVelocity,
        negative_condition={"label": torch.zeros(1, 1)},
        on_log=Logs() if logs is None else logs,
        shapes=shapes(block),
    )
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("block", [1, 2, 4])
def test_a_round_holds_every_row_as_often_as_a_block_is_long(block):
    order = block_order(shapes(block), seed=3, round_index=0)
    assert Counter(order) == dict.fromkeys(range(len(OF_ROW)), block)
    assert order != block_order(shapes(block), seed=3, round_index=1)
    assert order != block_order(shapes(block), seed=4, round_index=0)


@pytest.mark.parametrize("block", [2, 4])
def test_aligned_blocks_have_one_shape_over_rounds(block):
    stream = TrainingStream(ShapedRows(), length=10_000, shapes=shapes(block))
    found = [OF_ROW[stream.row_index(p)] for p in range(3 * block * len(OF_ROW))]
    for start in range(0, len(found), block):
        assert len(set(found[start : start + block])) == 1


def test_every_shape_keeps_its_share_at_any_time():
    block = 4
    order = block_order(shapes(block), seed=0, round_index=0)
    for shape in set(OF_ROW):
        share = OF_ROW.count(shape) / len(OF_ROW)
        for count in range(1, len(OF_ROW) + 1):
            blocks = sum(OF_ROW[row] == shape for row in order[: count * block]) / block
            assert abs(blocks - share * count) <= 2


def test_a_shapes_rows_come_shuffle_by_shuffle():
    order = block_order(shapes(2), seed=1, round_index=0)
    of_shape = [row for row in order if OF_ROW[row] == 1]
    assert sorted(of_shape[:4]) == sorted(of_shape[4:]) == [1, 5, 8, 11]


def test_the_order_depends_on_the_position_alone():
    ascending = TrainingStream(ShapedRows(), length=1000, shapes=shapes())
    jumping = TrainingStream(ShapedRows(), length=1000, shapes=shapes())
    expected = [ascending.row_index(p) for p in range(200)]
    assert [jumping.row_index(p) for p in (199, 3, 57, 0)] == [expected[p] for p in (199, 3, 57, 0)]


def test_rows_of_one_shape_keep_the_plain_order():
    plain = TrainingStream(ShapedRows(), length=100, seed=2)
    alike = TrainingStream(ShapedRows(), length=100, seed=2, shapes=shapes(of_row=[0] * 14))
    assert [alike.row_index(p) for p in range(60)] == [plain.row_index(p) for p in range(60)]


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("micro", [1, 2, 4])
def test_micro_batches_of_every_rank_have_one_shape_and_share_no_position(world_size, micro):
    stream = TrainingStream(ShapedRows(), length=160, shapes=shapes())
    sampler = CollectionSampler(
        num_updates=10, rows_per_rank=16 // world_size, world_size=world_size,
        updates_per_collection=1,
    )  # fmt: skip
    positions = []
    for batch in sampler:
        parts = collate([stream[p] for p in batch], micro)
        (update,) = micro_batches(len(batch), 1, micro)
        assert [part.positions for part in parts] == [[batch[i] for i in rows] for rows in update]
        for part in parts:
            positions += part.positions
            for i, position in enumerate(part.positions):
                row = stream.rows[stream.row_index(position)]
                assert torch.equal(part["x0"][i], row["x0"])
                assert torch.equal(part.condition["label"][i], row["condition"]["label"])
                assert part.prompts[i] == row["prompt"]
    assert sorted(positions) == list(range(160))


@pytest.mark.parametrize("method", [sft, soar])
def test_the_size_of_micro_batches_changes_no_result(tmp_path, method):
    weights = [
        train(tmp_path / str(size), run_config(micro_batch_size=size), method=method)
        for size in (1, 4)
    ]
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=1e-5), name


def test_resumed_in_the_middle_of_a_round_equals_straight_through(tmp_path):
    config = run_config(micro_batch_size=4)
    straight = train(tmp_path / "straight", config)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", config, logs=Logs(stop_at=6))
    resumed = train(tmp_path / "cut", config)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


@pytest.mark.parametrize("micro", [3, 8, None])
def test_micro_batches_that_would_mix_shapes_are_refused(tmp_path, micro):
    size = 24 if micro == 3 else 8
    with pytest.raises(ValueError, match=r"it must divide data\.rows_per_bucket=4"):
        train(tmp_path, run_config(batch_size=size, micro_batch_size=micro))
