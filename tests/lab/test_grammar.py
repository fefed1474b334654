"""The grammar: what is held out, how it is said, where it is put."""

import numpy as np
import pytest

from evaluators.geneval.metadata import MetadataError
from evaluators.geneval.verdict import judge
from soarbench.common.errors import UserError
from soarbench.config.registries import suite_named
from soarbench.evaluation.selection import refuse_overlap
from soarbench.evaluation.suites import load_suite
from soarbench.lab.judges import LabDetector, drawn_sample
from soarbench.lab.world import grammar, scenes
from soarbench.lab.world.draw import SUITES


def test_no_training_caption_is_an_evaluation_prompt():
    suites = [load_suite(suite_named(name)) for name in SUITES]
    pools = grammar.split().training.values()
    captions = [p + c.phrase for pool in pools for c in pool for p in grammar.TRAINING_PREFIXES]
    refuse_overlap(captions, suites)
    with pytest.raises(UserError, match="lab_geneval"):
        refuse_overlap(["A photo of  a circle at the top."], suites)


def test_held_out_compositions_are_not_trained_on_under_any_prefix():
    found = grammar.split()
    held_out = (found.geneval, found.ocr, found.drawbench, found.tuning_geneval)
    parts = [*held_out, found.tuning_drawbench, *found.training.values()]
    phrases = [c.phrase for part in parts for c in part]
    assert len(phrases) == len(set(phrases)) >= 3000


def test_suites_do_not_overlap_and_cover_the_six_tasks():
    items = [item for name in SUITES for item in suite_named(name).items()]
    assert len({item.prompt for item in items}) == len(items)
    assert len({item.prompt_id for item in items}) == len(items)
    tags = {item.metadata["tag"] for item in suite_named("lab_geneval").items()}
    assert tags == set(grammar.TASKS)


@pytest.mark.parametrize("task", grammar.TASKS)
def test_a_clean_render_is_judged_correct_by_geneval(task):
    for index, composition in enumerate(grammar.all_compositions()[task][:400:5]):
        sample = drawn_sample(f"{task}{index}", composition)
        found = LabDetector().detect([sample.image], [sample.metadata])[0]
        verdict = judge(found, sample.metadata)
        assert verdict.correct, (sample.prompt, verdict)
        assert verdict.strict_correct, (sample.prompt, verdict)


@pytest.mark.parametrize(
    ("relation", "axis", "sign"),
    [("left of", "x", -1), ("right of", "x", 1), ("above", "y", -1), ("below", "y", 1)],
)
def test_positions_are_laid_out_as_said(relation, axis, sign):
    wants = (grammar.Want("square"), grammar.Want("circle", relation=relation))
    composition = grammar.Composition("position", f"a circle {relation} a square", wants)
    scene = grammar.lay_out(composition, scenes.CLEAN_STYLE, np.random.default_rng(0))
    square, circle = scene.objects
    assert sign * (getattr(circle, axis) - getattr(square, axis)) > 10


def test_the_same_seed_draws_the_same_picture():
    first, second = (grammar.training_sample(np.random.default_rng((3, 4))) for _ in range(2))
    assert first == second
    assert np.array_equal(scenes.render(first.scene), scenes.render(second.scene))


def test_wrong_captions_come_in_the_share_asked_for():
    rng = np.random.default_rng(0)
    drawn = [grammar.training_sample(rng, wrong_captions=0.3) for _ in range(1000)]
    wrong = np.mean([not s.caption.endswith(s.composition.phrase) for s in drawn])
    assert 0.24 < wrong < 0.36


def test_unknown_suite_is_named_with_those_that_exist():
    with pytest.raises(UserError, match=r"lab_genevil.*lab_geneval"):
        suite_named("lab_genevil")


@pytest.mark.parametrize("place", grammar.PLACES)
def test_an_object_elsewhere_than_asked_is_judged_wrong(place):
    pool = [c for c in grammar.all_compositions()["colors"] if c.phrase.startswith("a red heart")]
    asked = next(c for c in pool if c.place == place)
    sample = drawn_sample("asked", asked)
    for other in pool:
        image = drawn_sample("other", other).image
        found = LabDetector().detect([image], [sample.metadata])[0]
        assert judge(found, sample.metadata).correct is (other == asked), other.phrase


def test_a_place_that_does_not_exist_is_named_with_those_that_do():
    sample = drawn_sample("any", grammar.all_compositions()["colors"][0])
    with pytest.raises(MetadataError, match=r"'in the sky'.*at the top"):
        LabDetector().detect([sample.image], [{**sample.metadata, "place": "in the sky"}])
