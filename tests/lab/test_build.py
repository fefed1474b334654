"""The build stages: words are tokens, stages resume, a broken name is refused."""

import json
import re

import numpy as np
import pytest
import torch
from diffusers import AutoencoderDC
from torch import nn

from soarbench.common.errors import UserError
from soarbench.lab.build import stages
from soarbench.lab.build.autoencoder import new_autoencoder
from soarbench.lab.build.base import (
    MAX_TOKENS,
    BaseLoss,
    _captions,
    build_tokenizer,
    save_pipeline,
)
from soarbench.lab.build.stages import build
from soarbench.lab.build.training import (
    IndexedDataset,
    StageRecipe,
    draw_data,
    train_stage,
)


def test_every_word_of_the_grammar_is_one_token(tmp_path):
    tokenizer = build_tokenizer(tmp_path)
    captions = _captions()
    words = {word for caption in captions for word in re.findall("[a-zA-Z]+", caption)}
    for word in words:
        assert len(tokenizer(word).input_ids) == 3, word
    assert max(len(tokenizer(caption).input_ids) for caption in captions) <= MAX_TOKENS


def test_a_tokenizer_built_again_gives_the_same_numbers(tmp_path):
    first, again = (build_tokenizer(tmp_path / name).get_vocab() for name in "ab")
    assert first == again
    merges = [(tmp_path / name / "merges.txt").read_text() for name in "ab"]
    assert merges[0] == merges[1]


def test_a_saved_pipeline_does_not_say_where_it_was_trained(tmp_path):
    autoencoder = new_autoencoder()
    widths = list(autoencoder.config.encoder_block_out_channels)
    autoencoder.register_to_config(scaling_factor=0.9, shift_factor=0.1, block_out_channels=widths)
    autoencoder.save_pretrained(tmp_path / "vae")
    tokenizer = build_tokenizer(tmp_path / "tokenizer")
    loaded = AutoencoderDC.from_pretrained(tmp_path / "vae")
    save_pipeline(BaseLoss(tokenizer), loaded, tokenizer, tmp_path / "pipeline")
    saved = [path.read_text() for path in (tmp_path / "pipeline").rglob("*.json")]
    assert len(saved) > 5
    assert not any(str(tmp_path) in text for text in saved)
    config = json.loads((tmp_path / "pipeline" / "vae" / "config.json").read_text())
    assert (config["scaling_factor"], config["shift_factor"]) == (0.9, 0.1)


def test_drawing_data_twice_maps_the_same_pictures(tmp_path):
    first = draw_data(tmp_path / "a", 6, seed=3)
    again = draw_data(tmp_path / "a", 6, seed=3)
    elsewhere = draw_data(tmp_path / "b", 6, seed=3)
    assert np.array_equal(first.pixels, again.pixels)
    assert np.array_equal(first.pixels, elsewhere.pixels)
    assert first.captions == elsewhere.captions


class _Line(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(2, 1)

    def forward(self, x, y):
        return {"loss": (self.layer(x)[:, 0] - y).square().mean()}


def _row(index):
    x = torch.randn(2, generator=torch.Generator().manual_seed(index))
    return {"x": x, "y": 2 * x[0] - x[1]}


RECIPE = StageRecipe(
    steps=60, batch_size=8, learning_rate=0.1, warmup_steps=2, ema_decay=0.9, save_steps=20
)


class _Killed(Exception):
    pass


def test_an_interrupted_stage_goes_on_to_the_same_weights(tmp_path):
    dataset = IndexedDataset(480, _row)
    straight = _Line()
    train_stage(straight, dataset, RECIPE, tmp_path / "straight")

    seen = 0

    def dying_row(index):
        nonlocal seen
        seen += 1
        if seen > 8 * 30:
            raise _Killed
        return _row(index)

    with pytest.raises(_Killed):
        train_stage(_Line(), IndexedDataset(480, dying_row), RECIPE, tmp_path / "resumed")
    resumed = _Line()
    train_stage(resumed, dataset, RECIPE, tmp_path / "resumed")
    assert torch.equal(straight.layer.weight, resumed.layer.weight)
    assert torch.allclose(straight.layer.weight, torch.tensor([[2.0, -1.0]]), atol=0.1)


def test_seconds_of_an_interrupted_stage_count_from_its_first_start(tmp_path, monkeypatch):
    now, is_killed = [100.0], [True]

    def work(_shop):
        now[0] += 30
        if is_killed.pop():
            raise KeyboardInterrupt

    monkeypatch.setattr(stages.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(stages, "STAGES", {"base": work})
    with pytest.raises(KeyboardInterrupt):
        build(None, tmp_path)
    assert not (tmp_path / "base.seconds").exists()
    is_killed.append(False)
    build(None, tmp_path)
    assert (tmp_path / "base.seconds").read_text() == "60\n"
    build(None, tmp_path)
    assert now == [160.0], "a stage that is built was built again"


def test_an_unknown_stage_is_refused_with_those_that_exist(tmp_path):
    with pytest.raises(UserError, match=r"stage='bass'.*autoencoder, base"):
        build("bass", tmp_path)
