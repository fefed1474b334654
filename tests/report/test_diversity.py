"""Diversity within prompts: paired differences, corrected, also where only some was measured."""

import numpy as np
import pandas as pd
import pytest

from soarbench.report.numbers.diagnostics import image_statistics
from soarbench.report.numbers.diversity import measure_diversity
from soarbench.report.text.gaming import diversity_note, diversity_texts, sign_numbers
from tests.report.diagnosed import write_diagnostics
from tests.report.folders import Folder, base, read_cells, write_grid

NUM_PROMPTS = 20


def statistics(values, measure="diversity"):
    """Of values by (method, seed), one a prompt, at step 10."""
    rows = [
        (0 if method == "base" else 10, label, measure, value, method, seed)
        for (method, seed), own in values.items()
        for label, value in enumerate(own)
        if not np.isnan(value)
    ]
    columns = ("step", "label", "quantity", "value", "method", "seed")
    return pd.DataFrame(rows, columns=columns)


def drawn(gaps, seeds=(0, 1, 2), noise=0.01):
    """A level of each prompt that all share, and what each method lies above it."""
    rng = np.random.default_rng(0)
    level = rng.normal(0.3, 0.05, NUM_PROMPTS)
    return {
        (method, seed): level + gap + rng.normal(0, noise, NUM_PROMPTS)
        for method, gap in gaps.items()
        for seed in ((0,) if method == "base" else seeds)
    }


def test_differences_are_paired_by_prompt_and_seed():
    values = drawn({"base": 0.05, "sft": 0.0, "soar": -0.04, "flow_grpo": 0.0})
    one = measure_diversity("t", statistics(values), "sft", {})
    soar = one.comparisons["soar", "diversity"]
    exact = np.mean([values["soar", seed] - values["sft", seed] for seed in range(3)])
    assert soar.difference.estimate == pytest.approx(exact)
    # The prompts' own levels, five times the noise, cancel.
    alone = one.values["soar", "diversity"].interval
    assert soar.difference.high - soar.difference.low < (alone.high - alone.low) / 3
    verdicts = {method: str(c.verdict) for (method, _), c in one.comparisons.items()}
    assert verdicts == {"base": "better", "soar": "worse", "flow_grpo": "not distinguishable"}
    # For three comparisons.
    assert soar.adjusted_p_value >= soar.p_value
    assert "3 comparisons" in diversity_note(one)
    assert len(sign_numbers([], [one])) == 3


def test_a_prompt_that_failed_in_one_method_counts_in_neither():
    values = drawn({"sft": 0.0, "soar": -0.04}, seeds=(0,))
    values["soar", 0][3] = np.nan
    one = measure_diversity("t", statistics(values), "sft", {})
    difference = one.comparisons["soar", "diversity"].difference
    assert difference.estimate == pytest.approx(np.nanmean(values["soar", 0] - values["sft", 0]))
    assert difference.num_prompts == NUM_PROMPTS - 1


def test_a_measure_that_only_some_cells_have_is_compared_where_both_do():
    both = [
        statistics(drawn({"sft": 0.0, "soar": -0.04})),
        statistics(drawn({"soar": 1.0}), "vendi"),
    ]
    one = measure_diversity("t", pd.concat(both), "sft", {})
    assert set(one.comparisons) == {("soar", "diversity")}
    assert one.values["soar", "vendi"].interval.estimate == pytest.approx(1.3, abs=0.1)
    texts = diversity_texts(one)
    assert list(texts[texts["Measure"] == "Vendi score"].iloc[:, 3]) == ["-"]


def test_one_image_a_prompt_has_no_diversity():
    assert measure_diversity("t", statistics({}), "sft", {}) is None


def test_it_is_read_from_the_cells_at_their_last_steps(tmp_path):
    cells = [base(num_prompts=10), *(
        Folder(method=name, task="aesthetic", seed=seed, num_prompts=10, steps=(50, 100))
        for name in ("sft", "soar") for seed in (0, 1)
    )]  # fmt: skip
    folder = write_grid(tmp_path / "grid", cells)
    for cell in cells:
        write_diagnostics(folder, cell, ("aesthetic",))
    prompts = np.array([f"drawbench-{i:05d}" for i in range(10)])
    own = image_statistics(read_cells(folder)[0], "aesthetic", prompts)
    one = measure_diversity("aesthetic", own, "sft", {})
    # Strengths of 0.2 and 0.3 at the end; see write_diagnostics.
    for measure in ("diversity", "vendi"):
        difference = one.comparisons["soar", measure].difference
        assert difference.estimate == pytest.approx(0.01)
    assert one.values["base", "vendi"].interval.estimate == pytest.approx(1.545)
