import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluators.geneval import detectors
from evaluators.geneval.detectors import Instance, instances_from_logits

GOLDEN = json.loads((Path(__file__).parents[2] / "data" / "vectors.json").read_text())["instances"]
SIZES = ("padded_size", "resized_size", "original_size")


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_instances(case):
    found = instances_from_logits(
        torch.tensor(case["class_logits"]),
        torch.tensor(case["mask_logits"]),
        *(case[name] for name in SIZES),
        case["max_instances"],
    )
    expected = [instance for instance in case["instances"] if instance["score"] > 0]
    assert len(found) == len(expected)
    for instance, reference in zip(found, expected, strict=True):
        assert instance.label == reference["label"]
        assert instance.score == pytest.approx(reference["score"], abs=1e-5)
        assert list(instance.box) == reference["box"]
        assert list(instance.mask.shape) == case["original_size"]
        assert int(instance.mask.sum()) == reference["area"]


def bilinear_weights(size_in, size_out):
    """How much each input row adds to each output row, one at a time. -> (out, in)."""
    weights = np.zeros((size_out, size_in))
    for row in range(size_out):
        where = min(max((row + 0.5) * size_in / size_out - 0.5, 0.0), size_in - 1.0)
        low = int(where)
        high = min(low + 1, size_in - 1)
        weights[row, low] += 1 - (where - low)
        weights[row, high] += where - low
    return weights


def resize(logits, size):
    rows = bilinear_weights(logits.shape[0], size[0])
    return rows @ logits @ bilinear_weights(logits.shape[1], size[1]).T


def slow_instances(class_logits, mask_logits, padded, resized, original, max_instances):
    """The definition in double precision, one pair and one pixel at a time."""
    pairs = []
    for query, logits in enumerate(class_logits):
        exponentials = np.exp(logits - logits.max())
        for label, value in enumerate(exponentials[:-1] / exponentials.sum()):
            pairs.append((-value, query, label))
    found = []
    for negative, query, label in sorted(pairs)[:max_instances]:
        logits = resize(mask_logits[query], padded)[: resized[0], : resized[1]]
        logits = resize(logits, original)
        inside = [
            (y, x) for y in range(original[0]) for x in range(original[1]) if logits[y, x] > 0
        ]
        if not inside:
            continue
        mass = sum(1 / (1 + np.exp(-logits[y, x])) for y, x in inside)
        ys, xs = zip(*inside, strict=True)
        box = (min(xs), min(ys), max(xs) + 1, max(ys) + 1)
        found.append((-negative * mass / (len(inside) + 1e-6), label, box, len(inside)))
    return sorted(found, key=lambda item: -item[0])


def random_case(seed):
    rng = np.random.default_rng(seed)
    grid = rng.integers(1, 4, size=2)
    padded = tuple(int(32 * n) for n in grid)
    resized = tuple(int(rng.integers(edge - 31, edge + 1)) for edge in padded)
    original = tuple(int(n) for n in rng.integers(1, 40, size=2))
    queries, classes = int(rng.integers(1, 20)), int(rng.integers(1, 6))
    class_logits = rng.normal(0, 2, size=(queries, classes + 1))
    mask_logits = rng.normal(rng.uniform(-2, 1), 2, size=(queries, *(edge // 4 for edge in padded)))
    mask_logits[rng.random(queries) < 0.2] = -3.0
    sizes = (padded, resized, original)
    return class_logits, mask_logits, sizes, int(rng.choice([3, 100]))


@pytest.mark.parametrize("seed", range(25))
def test_random_logits_against_the_slow_reference(seed):
    class_logits, mask_logits, sizes, max_instances = random_case(seed)
    tensors = torch.from_numpy(class_logits).float(), torch.from_numpy(mask_logits).float()
    found = instances_from_logits(*tensors, *sizes, max_instances)
    expected = slow_instances(class_logits, mask_logits, *sizes, max_instances)
    assert [instance.label for instance in found] == [item[1] for item in expected]
    assert [instance.box for instance in found] == [item[2] for item in expected]
    assert [int(instance.mask.sum()) for instance in found] == [item[3] for item in expected]
    scores = [instance.score for instance in found]
    assert scores == pytest.approx([item[0] for item in expected], abs=1e-5)


def test_ties_go_to_the_lower_query_then_the_lower_class():
    class_logits = torch.tensor([[1.0, 0.0, 1.0, 0.5]]).repeat(4, 1)
    masks = torch.full((4, 8, 8), -1.0)
    for query in range(4):
        masks[query, :, 2 * query] = 1.0
    found = instances_from_logits(class_logits, masks, (8, 8), (8, 8), (8, 8), 5)
    assert [(i.label, i.box[0]) for i in found] == [(0, 0), (2, 0), (0, 2), (2, 2), (0, 4)]


def test_queries_without_a_mask_are_dropped():
    found = instances_from_logits(
        torch.zeros(3, 5), torch.full((3, 8, 8), -1.0), (32, 32), (32, 32), (20, 20)
    )
    assert found == []


@pytest.mark.parametrize("min_score", [0.1, 0.3, 0.9])
def test_a_minimum_score_only_leaves_out_what_lies_at_or_below_it(min_score):
    for seed in range(12):
        class_logits, mask_logits, sizes, max_instances = random_case(seed)
        tensors = torch.from_numpy(class_logits).float(), torch.from_numpy(mask_logits).float()
        everything = instances_from_logits(*tensors, *sizes, max_instances)
        kept = instances_from_logits(*tensors, *sizes, max_instances, min_score=min_score)
        expected = [instance for instance in everything if instance.score > min_score]
        assert [facts(i) for i in kept] == [facts(i) for i in expected]


def facts(instance: Instance):
    return instance.label, instance.score, instance.box, instance.mask.tolist()


def test_broken_logits_stay_visible():
    masks = torch.ones(2, 8, 8)
    classes = torch.tensor([[0.0, 1.0], [float("nan"), 0.0]])
    found = instances_from_logits(classes, masks, (8, 8), (8, 8), (8, 8), min_score=0.9)
    assert any(np.isnan(instance.score) for instance in found)
    masks[0] = float("nan")
    found = instances_from_logits(torch.zeros(2, 2), masks, (8, 8), (8, 8), (8, 8))
    assert any(np.isnan(instance.score) for instance in found)


def test_half_precision_logits_are_processed_in_float32():
    generator = torch.Generator().manual_seed(0)
    classes = torch.randn(6, 4, generator=generator).bfloat16()
    masks = torch.randn(6, 8, 8, generator=generator).bfloat16()
    sizes = ((32, 32), (30, 32), (21, 23))
    half = instances_from_logits(classes, masks, *sizes)
    single = instances_from_logits(classes.float(), masks.float(), *sizes)
    assert [facts(i) for i in half] == [facts(i) for i in single]


def test_masks_are_enlarged_by_their_pixels_at_a_time(monkeypatch):
    class_logits, mask_logits, sizes, _ = random_case(7)
    tensors = torch.from_numpy(class_logits), torch.from_numpy(mask_logits)
    together, chunks = instances_from_logits(*tensors, *sizes), []
    resized = detectors._resized

    def counting(logits, size):
        chunks.append(len(logits))
        return resized(logits, size)

    monkeypatch.setattr(detectors, "_resized", counting)
    # A picture 16 times as large as usual.
    monkeypatch.setattr(detectors, "_QUERY_PIXELS", max(map(math.prod, sizes)) // 16)
    alone = instances_from_logits(*tensors, *sizes)
    assert set(chunks) == {1}
    for one, other in zip(together, alone, strict=True):
        assert (one.label, one.box) == (other.label, other.box)
        # A sum of another shape may differ in the last bits.
        assert one.score == pytest.approx(other.score, rel=1e-6)
        assert torch.equal(one.mask, other.mask)
