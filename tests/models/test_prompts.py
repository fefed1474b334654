"""Prompts are encoded once, and then the text encoders are gone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from soarbench.models import prompts as module
from soarbench.models.config import ModelConfig
from soarbench.models.prompts import PromptStore, encoder_digest
from soarbench.models.sd3 import SD3Model
from tests.tiny import build_tiny_pipeline

PROMPTS = ["a red circle", "", "two stars", "a red circle"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    directory = build_tiny_pipeline(tmp_path_factory.mktemp("pipeline"))
    return ModelConfig(
        name="tiny",
        path=str(directory),
        resolution=64,
        max_sequence_length=0,
        load_text_encoder_3=False,
    )


def refuse(*_: object) -> None:
    raise AssertionError("text encoders loaded again")


def test_conditions_are_the_encoders_own_and_encoders_are_loaded_once(
    config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SD3Model.load(config, prompts=PromptStore(config, CPU, tmp_path))
    assert model.pipeline.text_encoder is model.pipeline.tokenizer is None
    found = model.encode_prompts(PROMPTS)
    expected = SD3Model.load(config).encode_prompts(PROMPTS)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.allclose(found[name], value, atol=1e-5)
    monkeypatch.setattr(module, "load_encoders", refuse)
    again = PromptStore(config, CPU, tmp_path)
    assert len(again.store) == 3
    assert torch.equal(again.encode(PROMPTS)["prompt_embeds"], found["prompt_embeds"])
    assert torch.equal(again.row("two stars")["prompt_embeds"], found["prompt_embeds"][2])
    with pytest.raises(AssertionError, match="loaded again"):
        again.encode(["new"])


def test_company_does_not_change_a_condition(config: ModelConfig, tmp_path: Path) -> None:
    alone = PromptStore(config, CPU, tmp_path / "alone").encode(["two stars"])
    crowd = [f"{number} hearts" for number in range(40)]
    found = PromptStore(config, CPU, tmp_path / "crowd").encode([*crowd, "two stars"])
    for name, value in alone.items():
        assert torch.equal(found[name][-1], value[0])


def test_other_encoders_have_another_place(config: ModelConfig, tmp_path: Path) -> None:
    other = build_tiny_pipeline(tmp_path / "other", seed=1)
    changes = (
        {"path": str(other)},
        {"max_sequence_length": 8},
        {"dtype": "bfloat16"},
        {"load_text_encoder_3": True},
        {"path": "org/name", "revision": "a"},
        {"path": "org/name", "revision": "b"},
    )
    digests = {encoder_digest(dataclasses.replace(config, **change)) for change in changes}
    assert len(digests | {encoder_digest(config)}) == len(changes) + 1
