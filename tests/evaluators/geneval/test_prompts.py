import collections
import hashlib

import pytest

from evaluators.base import EvaluatorError
from evaluators.geneval import prompts as geneval_prompts
from evaluators.geneval.metadata import check_vocabulary, parse_request
from evaluators.geneval.prompts import (
    CLASS_NAMES,
    COLORS,
    official_metadata,
    official_metadata_jsonl,
    plural,
    with_article,
)


def test_metadata_is_byte_for_byte_the_official_file():
    digest = hashlib.sha256(official_metadata_jsonl()).hexdigest()
    assert digest == "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"


def test_prompts_are_byte_for_byte_the_official_file():
    prompts = "".join(f"{entry['prompt']}\n" for entry in official_metadata())
    digest = hashlib.sha256(prompts.encode()).hexdigest()
    assert digest == "55b6e3650e980c13daf30569eb666e000faf19bfc2b7b4cbe999fcdb7aa9d680"


def test_tasks_have_the_published_sizes():
    sizes = collections.Counter(entry["tag"] for entry in official_metadata())
    assert sizes == {
        "single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100,
        "color_attr": 100,
    }  # fmt: skip
    assert len(official_metadata()) == 553


def test_every_entry_can_be_judged():
    for entry in official_metadata():
        check_vocabulary(parse_request(entry), CLASS_NAMES, COLORS)


def test_callers_cannot_change_the_official_entries():
    official_metadata()[0]["tag"] = "other"
    assert official_metadata()[0]["tag"] == "single_object"


def test_another_random_stream_is_refused(monkeypatch):
    monkeypatch.setattr(geneval_prompts, "SEED", 44)
    official_metadata_jsonl.cache_clear()
    with pytest.raises(EvaluatorError, match="NumPy"):
        official_metadata_jsonl()


def test_articles_and_plurals():
    assert (with_article("orange"), with_article("bus")) == ("an orange", "a bus")
    assert (plural("bus"), plural("dog"), plural("skis")) == ("buses", "dogs", "skises")
