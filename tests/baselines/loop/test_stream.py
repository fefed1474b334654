import itertools

import pytest
import torch

from baselines.loop.stream import (
    CollectionSampler,
    TrainingStream,
    collate,
    micro_batches,
    row_generator,
    stack_rows,
)
from tests.baselines.toys import PlaneRows


def stream(rows=5, *, group_size=1, seed=0):
    return TrainingStream(PlaneRows(rows), length=100, group_size=group_size, seed=seed)


def test_each_epoch_is_a_permutation_of_all_rows_and_differs_from_the_last():
    order = [stream().row_index(position) for position in range(15)]
    epochs = [order[start : start + 5] for start in (0, 5, 10)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
    assert epochs[0] != epochs[1] or epochs[1] != epochs[2]


def test_the_order_is_that_of_every_stored_training():
    order = [stream(7, group_size=2, seed=3).row_index(position) for position in range(0, 28, 2)]
    assert order == [4, 3, 5, 6, 0, 1, 2, 3, 4, 2, 5, 6, 1, 0]


def test_order_depends_on_the_position_alone():
    ascending, jumping = stream(), stream()
    expected = [ascending.row_index(position) for position in range(40)]
    for position in (39, 3, 21, 0, 38):
        assert jumping.row_index(position) == expected[position]


def test_positions_of_a_group_hold_the_same_row():
    grouped, plain = stream(group_size=3), stream()
    assert [grouped.row_index(p) for p in range(15)] == [plain.row_index(p // 3) for p in range(15)]


def test_generators_are_reproducible_and_differ_by_row_and_seed():
    def draw(seed, position):
        return torch.randn(4, generator=row_generator(seed, position))

    assert torch.equal(draw(1, 7), draw(1, 7))
    draws = {tuple(draw(seed, p).tolist()) for seed in (0, 1) for p in range(100)}
    assert len(draws) == 200


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("collection", [1, 2])
def test_ranks_share_out_every_position_once(world_size, collection):
    sampler = CollectionSampler(
        num_updates=4,
        rows_per_rank=8 // world_size,
        world_size=world_size,
        updates_per_collection=collection,
    )
    batches = list(sampler)
    assert len(batches) == len(sampler) == 4 * world_size
    assert sorted(itertools.chain(*batches)) == list(range(32))


def test_an_update_holds_the_same_positions_for_every_number_of_ranks():
    def update_positions(world_size, update):
        sampler = list(
            CollectionSampler(
                num_updates=2,
                rows_per_rank=8 // world_size,
                world_size=world_size,
                updates_per_collection=2,
            )
        )
        found = []
        for rank in range(world_size):
            rows = sampler[rank]
            found += [rows[i] for part in micro_batches(len(rows), 2, 2)[update] for i in part]
        return sorted(found)

    for update in (0, 1):
        expected = update_positions(1, update)
        assert expected == list(range(update, 16, 2))
        assert update_positions(2, update) == update_positions(4, update) == expected


def test_micro_batches_by_hand():
    assert micro_batches(6, 2, 2) == [[[0, 2], [4]], [[1, 3], [5]]]


def test_stacked_rows_keep_their_order():
    source = stream()
    rows = stack_rows([source[p] for p in range(3)])
    assert rows.positions == [0, 1, 2]
    for i in range(3):
        expected = source.rows[source.row_index(i)]
        assert torch.equal(rows["x0"][i], expected["x0"])
        assert torch.equal(rows.condition["label"][i], expected["condition"]["label"])
        assert rows.prompts[i] == expected["prompt"]
        assert rows.columns["label"][i] == expected["columns"]["label"]
    part = rows.select([2, 0])
    assert part.positions == [2, 0]
    assert torch.equal(part["x0"], rows["x0"][[2, 0]])
    # What accelerate and the loader ask of a batch.
    assert "labels" not in [rows]
    assert torch.equal(rows.to(torch.device("cpu"), non_blocking=True)["x0"], rows["x0"])


def test_no_rows_collate_to_nothing():
    assert collate([]) == []
