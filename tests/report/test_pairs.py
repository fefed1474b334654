from dataclasses import replace

import numpy as np

from soarbench.report.numbers.estimates import Targets
from soarbench.report.numbers.measured import of_scored
from soarbench.report.numbers.pairs import answers, measured_pairs
from tests.report.folders import write_scored


def test_a_prompt_that_failed_in_one_seed_keeps_its_task(tmp_path):
    rng, key, found = np.random.default_rng(0), ("geneval", "geneval"), []
    for name in ("first", "again", "second"):
        values = (rng.random(24) > 0.5).astype(float)
        if name == "first":
            values[2:4] = np.nan
        found.append(of_scored(write_scored(tmp_path / name, "geneval", values))[key])
    # What failed has no details, and so no tag: here all of a prompt's images in the first seed.
    lost = replace(found[0], tags={k: v for k, v in found[0].tags.items() if k != "geneval-00001"})
    assert len(lost.tags) == 11
    whole, part = (
        answers(
            measured_pairs(("a", "b"), {key: {0: one, 1: found[1]}}, {key: {None: found[2]}}),
            Targets(metric="geneval"),
        )
        for one in (found[0], lost)
    )
    assert part == whole
