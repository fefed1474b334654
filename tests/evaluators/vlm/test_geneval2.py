"""GenEval 2: which answers count, and how they become one number."""

import dataclasses
import json
import math

import pytest
from PIL import Image
from scipy.stats import gmean

from evaluators.base import EvaluatorError, Sample
from evaluators.vlm.base import QuestionsEvaluator
from evaluators.vlm.geneval2 import PROMPTS, GenEval2Config, answers_to, geometric_mean
from evaluators.vlm.questions import YES, Answer
from soarbench.common.errors import UserError
from soarbench.evaluation.suites import GenEval2, load_suite
from tests.evaluators.vlm.test_vqascore import Seeing

# The README's own example.
ENTRY = {
    "prompt": "four white bicycles",
    "atom_count": 3,
    "vqa_list": [
        ["How many bicycles are in the image?", "four"],
        ["Are the bicycles white?", "Yes"],
        ["Are there any bicycles in the image?", "Yes"],
    ],
    "skills": ["count", "attribute", "object"],
}


class Scripted:
    weights_hash = "scripted"

    def __init__(self, *probabilities):
        self.answers = [
            Answer(p) if p is not None else Answer(math.nan, "busy") for p in probabilities
        ]
        self.questions = []

    def answer(self, questions):
        self.questions += questions
        return self.answers[: len(questions)]


def sample(name, **entry):
    image = Image.new("RGB", (8, 8))
    return Sample(
        sample_id=name, prompt_id=name, prompt="four white bicycles", image=image,
        metadata={**ENTRY, **entry},
    )  # fmt: skip


def test_numbers_count_in_words_and_digits_and_all_else_by_yes():
    assert set(answers_to("How many cows are in the image?", "four")) == {
        "four", "Four", " four", " Four", "4", " 4",
    }  # fmt: skip
    assert answers_to("Are the cows white?", "Yes") == YES


@pytest.mark.parametrize("values", [[0.5, 0.25, 1.0], [1.0], [0.3] * 7, [0.9, 0.0]])
def test_the_geometric_mean_is_scipys(values):
    assert geometric_mean(values) == pytest.approx(gmean(values))


def test_soft_tifa_by_hand():
    model = Scripted(0.5, 1.0, 0.5, 1.0, 1.0, 0.25)
    judge = QuestionsEvaluator(GenEval2Config(), model)
    samples = [sample("a"), sample("b")]
    scores = judge.score(samples)
    assert [score.value for score in scores] == pytest.approx([0.25 ** (1 / 3)] * 2)
    summary = judge.aggregate(samples, scores)
    assert summary == pytest.approx(
        {
            "mean": 0.25 ** (1 / 3),
            "soft_tifa_am": (2 / 3 + 0.75) / 2,
            "attribute": 1.0,
            "count": 0.75,
            "object": 0.375,
            "unscored": 0.0,
        }
    )
    assert next(iter(summary)) == "mean"
    assert model.questions[0].text == "How many bicycles are in the image? Answer in one word."


def test_an_image_with_a_question_left_open_is_unscored():
    judge = QuestionsEvaluator(GenEval2Config(), Scripted(0.5, None, 0.5, 1.0, 1.0, 1.0))
    samples = [sample("a"), sample("b")]
    scores = judge.score(samples)
    assert (scores[0].reason, scores[1].value) == ("busy", 1.0)
    assert judge.aggregate(samples, scores)["unscored"] == 1.0


def test_a_prompt_without_questions_is_refused():
    with pytest.raises(ValueError, match="has no vqa_list"):
        GenEval2Config().check_prompt("a dog", {"prompt": "a dog"})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"vqa_list": "How many?"}, "has no vqa_list"),
        ({"vqa_list": [1]}, "'1' in vqa_list must be a list of a question and its answer"),
        ({"vqa_list": [["Is it red?"]]}, "must be a list of a question and its answer"),
        ({"skills": ["count", "object"]}, "give one to each of the 3 questions"),
        ({"skills": "count"}, "give one to each of the 3 questions"),
    ],
)
def test_questions_and_skills_that_do_not_fit_are_refused_before_any_is_asked(entry, message):
    """A TypeError, or a ValueError in the middle of judging."""
    with pytest.raises(ValueError, match=message):
        GenEval2Config().check_prompt("four white bicycles", {**ENTRY, **entry})
    for none in ({"skills": None}, {"skills": []}):
        GenEval2Config().check_prompt("four white bicycles", {**ENTRY, **none})


def test_canaries_are_asked_as_geneval2_asks():
    QuestionsEvaluator(GenEval2Config(), Seeing()).check_canaries()
    with pytest.raises(EvaluatorError, match="canary"):
        QuestionsEvaluator(GenEval2Config(), Seeing(is_honest=False)).check_canaries()


def test_the_suite_takes_what_was_fetched_or_a_copy(tmp_path, monkeypatch):
    monkeypatch.setenv("SOARBENCH_CACHE", str(tmp_path))
    suite = GenEval2(name="geneval2", judges=("geneval2",))
    assert suite.needs_file
    assert len(load_suite(suite).items) == suite.num_published == 800
    PROMPTS.path.parent.mkdir()
    PROMPTS.path.write_text(json.dumps(ENTRY) + "\n")
    assert not suite.needs_file
    (item,) = suite.items()
    GenEval2Config().check_prompt(item.prompt, item.metadata)
    copy = tmp_path / "copy.jsonl"
    PROMPTS.path.rename(copy)
    assert dataclasses.replace(suite, prompts=str(copy)).items() == [item]
    with pytest.raises(UserError, match="no such file"):
        dataclasses.replace(suite, prompts=str(tmp_path / "gone.jsonl")).items()
