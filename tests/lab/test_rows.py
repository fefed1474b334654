"""Curated rows of the laboratory: the best candidates are kept, once, from the cache."""

import dataclasses

import numpy as np
import pytest
import torch

from soarbench.data.select import best_share, best_share_of_groups, smallest_rank
from soarbench.lab import data as lab
from soarbench.lab.config import KINDS, LabDataConfig
from soarbench.lab.data import LabSet, draw_candidates
from soarbench.lab.world.grammar import demands
from soarbench.models.sd3.config import Sd3Config
from soarbench.models.sd3.model import SD3Model
from tests.tiny import build_tiny_pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = build_tiny_pipeline(tmp_path_factory.mktemp("pipeline"))
    return SD3Model.load(
        Sd3Config(
            name="tiny",
            path=str(directory),
            resolution=64,
            max_sequence_length=0,
            load_text_encoder_3=False,
        )
    )


@pytest.fixture(autouse=True)
def _no_assets(monkeypatch):
    monkeypatch.setattr(lab, "weights_hash", lambda name: name)


def _rows(model, scorer, folder):
    def condition(prompt):
        return {name: value[0] for name, value in model.encode_prompts([prompt]).items()}

    scorers = {"brightness": scorer}
    return LabSet(CONFIG, scorers).rows(model.encode_images, condition, folder)


def _brightness(samples):
    return [float(np.asarray(sample.image).mean()) for sample in samples]


CONFIG = LabDataConfig(num_candidates=20, select_by=("brightness",), keep_fraction=0.25)


def test_the_brightest_quarter_is_kept_with_its_latents(model, tmp_path):
    rows = _rows(model, _brightness, tmp_path)
    candidates = draw_candidates(CONFIG)
    best = sorted(np.argsort(_brightness(candidates))[-5:])
    assert [row["prompt"] for row in rows] == rows.prompts == [candidates[i].prompt for i in best]
    expected = model.encode_images([candidates[i].image for i in best])
    assert torch.allclose(torch.stack([row["x0"] for row in rows]), expected, atol=1e-5)
    condition = model.encode_prompts([rows[2]["prompt"]])
    assert torch.allclose(rows[2]["condition"]["prompt_embeds"], condition["prompt_embeds"][0])


def test_rows_carry_what_their_captions_demand(model, tmp_path):
    rows = _rows(model, _brightness, tmp_path)
    for row in rows:
        metadata = row["columns"]["metadata"]
        assert (metadata == {}) == ("says" in row["prompt"])
        for clause in metadata.get("include", []):
            assert clause["class"] in row["prompt"]
            assert clause.get("color", "") in row["prompt"]


def test_only_some_kinds_are_drawn():
    config = dataclasses.replace(CONFIG, kinds=("text", "colors"), wrong_captions=0.5)
    captions = [sample.prompt for sample in draw_candidates(config)]
    texts = [caption for caption in captions if '"' in caption]
    assert 0 < len(texts) < len(captions)
    assert {demands(c)["tag"] for c in captions if c not in texts} == {"colors"}


def test_drawing_all_kinds_is_what_it_was_before_there_was_a_choice():
    every = dataclasses.replace(CONFIG, kinds=KINDS)
    assert [s.prompt for s in draw_candidates(every)] == [s.prompt for s in draw_candidates(CONFIG)]


def test_the_second_time_nothing_is_scored(model, tmp_path):
    def refuses(_):
        raise AssertionError("scored again")

    first = _rows(model, _brightness, tmp_path)
    second = _rows(model, refuses, tmp_path)
    assert all(torch.equal(a["x0"], b["x0"]) for a, b in zip(first, second, strict=True))


def test_a_candidate_is_as_good_as_its_worst_rank():
    ranks = smallest_rank({"a": [1.0, 2.0, 3.0], "b": [30.0, 20.0, 10.0]})
    assert ranks.tolist() == [0.0, 0.5, 0.0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("keep_fraction", 0.0),
        ("num_candidates", 1),
        ("wrong_captions", 1.0),
        ("kinds", ()),
        ("kinds", ("texts",)),
    ],
)
def test_impossible_values_are_named(field, value):
    fields = {"num_candidates": 20, "select_by": ("x",), "keep_fraction": 0.25, field: value}
    with pytest.raises(ValueError, match=field):
        LabDataConfig(**fields)


def test_the_best_of_each_group():
    scores = {"a": [1.0, 9.0, 2.0, 8.0, 3.0, 7.0], "b": [1.0, 9.0, 2.0, 8.0, 3.0, 7.0]}
    groups = ["low", "high", "low", "high", "low", "high"]
    assert best_share(scores, 1 / 3) == [1, 3]
    assert best_share_of_groups(scores, groups, 1 / 3) == [1, 4]
    assert best_share_of_groups(scores, ["one"] * 6, 0.5) == best_share(scores, 0.5) == [1, 3, 5]


def test_every_kind_keeps_its_share_of_rows(model, tmp_path):
    def favours_text(samples):
        return [float('"' in sample.prompt) for sample in samples]

    def share_of_text(config):
        def condition(prompt):
            return {name: value[0] for name, value in model.encode_prompts([prompt]).items()}

        rows = LabSet(config, {"favours_text": favours_text}).rows(
            model.encode_images, condition, tmp_path
        )
        return np.mean(['"' in caption for caption in rows.prompts])

    together = dataclasses.replace(
        CONFIG,
        num_candidates=60,
        keep_fraction=0.5,
        select_by=("favours_text",),
        kinds=("text", "colors"),
    )
    within = dataclasses.replace(together, within_kinds=True)
    drawn = ['"' in c.prompt for c in draw_candidates(within)]
    assert abs(share_of_text(within) - np.mean(drawn)) < 0.05
    assert share_of_text(together) == min(1.0, 2 * np.mean(drawn))
