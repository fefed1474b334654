"""The shipped laboratory is what its card says: measured again, on the shipped files."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from scipy.stats import spearmanr

from evaluators.ocr.evaluator import OcrConfig
from soarbench.lab import judges
from soarbench.lab.assets import ASSETS, asset_dir, manifest
from soarbench.lab.build.card import base_samples, pair_accuracy
from soarbench.lab.config import LabModelConfig
from soarbench.models.sd3.model import SD3Model


@pytest.fixture(scope="module")
def model():
    return SD3Model.load(LabModelConfig())


@pytest.fixture(scope="module")
def drawn(model):
    return base_samples(model, "geneval", 1)


def _values(evaluator, samples):
    evaluator.check_canaries()
    return [score.value for score in evaluator.score(samples)]


def test_everything_shipped_is_recorded_small_and_no_pickle():
    files = [path for path in ASSETS.rglob("*") if path.is_file() and path.name != "manifest.json"]
    assert {str(path.relative_to(ASSETS)) for path in files} == set(manifest())
    assert sum(path.stat().st_size for path in files) <= 40e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".md"}


def test_diffusers_itself_loads_the_directory(model):
    # diffusers wants the parts that a pipeline lacks to be named.
    absent = dict.fromkeys(("text_encoder_3", "tokenizer_3", "image_encoder", "feature_extractor"))
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        asset_dir("base"), dtype=torch.float32, **absent
    )
    expected = model.transformer.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in pipeline.transformer.state_dict().items())


def test_the_base_has_room_for_post_training(drawn):
    geneval = judges.LabGenEvalConfig().build()
    overall = geneval.aggregate(drawn, geneval.score(drawn))["overall"]
    # The card's is of four images a prompt, of which one takes a quarter of the time.
    card = json.loads((ASSETS / "card.json").read_text())["geneval"]["overall"]
    assert 0.45 <= card <= 0.75
    assert overall == pytest.approx(card, abs=0.05)


def test_the_base_writes_some_words(model):
    texts = base_samples(model, "ocr", 2)
    assert 0.2 <= np.mean(_values(OcrConfig().build(), texts)) <= 0.7


def test_the_alignment_reward_prefers_the_matching_caption():
    assert pair_accuracy(judges.LabClipScoreConfig().build(), 300) >= 0.95


def test_the_aesthetic_reward_is_good_but_imperfect(drawn):
    truth = _values(judges.OracleAesthetic(), drawn)
    rated = _values(judges.LabAestheticConfig().build(), drawn)
    assert 0.6 <= spearmanr(truth, rated).statistic <= 0.95
