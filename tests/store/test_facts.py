"""Facts about a judge's number, as stored protocols carry them."""

import pytest

from soarbench.common.errors import ConfigError, StoreError
from soarbench.report.numbers.names import ordered_metrics
from soarbench.report.numbers.panels import build_panels
from soarbench.store.facts import metric_facts
from tests.report.folders import FACTS, Folder, read_cells, stored_facts, write_cell


def test_facts_survive_storing_and_more_facts_are_passed_over():
    stored = stored_facts(FACTS["oracle_geneval"])
    stored["judge"]["units"] = {"strict_score": "at most 1"}
    assert metric_facts("oracle_geneval", stored, "a cell") == FACTS["oracle_geneval"]


def test_nobody_guesses_which_way_is_better():
    with pytest.raises(StoreError, match=r"a cell does not say what 'mine' measures.*again"):
        metric_facts("mine", {"evaluator": "mine"}, "a cell")
    lacking = {k: v for k, v in stored_facts(FACTS["ocr"])["judge"].items() if "higher" not in k}
    with pytest.raises(ConfigError, match=r"a cell: ocr\.higher_is_better is missing"):
        metric_facts("ocr", {"judge": lacking}, "a cell")


def test_a_cell_without_protocols_is_refused(tmp_path):
    folder = write_cell(tmp_path, Folder(method="sft", task="aesthetic", num_prompts=6))
    (folder / "protocols.json").unlink()
    with pytest.raises(StoreError, match=r"sft-aesthetic.*does not say what 'aesthetic' measures"):
        build_panels(read_cells(tmp_path)[0])


def test_the_deciding_metric_stands_first_and_oracles_last():
    names = ("oracle_aesthetic", "ocr", "geneval", "aesthetic")
    facts = {name: FACTS[name] for name in names}
    assert ordered_metrics(facts, "aesthetic") == [
        "aesthetic",
        "ocr",
        "geneval",
        "oracle_aesthetic",
    ]
