"""Prompts are encoded once, and then the text encoders are gone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from soarbench.models.prompts import PromptStore
from soarbench.models.sd3.config import Sd3Config
from soarbench.models.sd3.model import SD3Model
from tests.tiny import build_tiny_pipeline

PROMPTS = ["a red circle", "", "two stars", "a red circle"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Sd3Config:
    directory = build_tiny_pipeline(tmp_path_factory.mktemp("pipeline"))
    return Sd3Config(
        name="tiny",
        path=str(directory),
        resolution=64,
        max_sequence_length=0,
        load_text_encoder_3=False,
    )


def refuse(*_: object) -> None:
    raise AssertionError("text encoders loaded again")


def test_conditions_are_the_encoders_own_and_encoders_are_loaded_once(
    config: Sd3Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SD3Model.load(config, prompts=PromptStore(config, CPU, tmp_path))
    assert model.pipeline.text_encoder is model.pipeline.tokenizer is None
    found = model.encode_prompts(PROMPTS)
    expected = SD3Model.load(config).encode_prompts(PROMPTS)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.allclose(found[name], value, atol=1e-5)
    monkeypatch.setattr(Sd3Config, "load_encoders", refuse)
    again = PromptStore(config, CPU, tmp_path)
    assert len(again.store) == 3
    assert torch.equal(again.encode(PROMPTS)["prompt_embeds"], found["prompt_embeds"])
    assert torch.equal(again.row("two stars")["prompt_embeds"], found["prompt_embeds"][2])
    with pytest.raises(AssertionError, match="loaded again"):
        again.encode(["new"])


def test_company_does_not_change_a_condition(config: Sd3Config, tmp_path: Path) -> None:
    alone = PromptStore(config, CPU, tmp_path / "alone").encode(["two stars"])
    crowd = [f"{number} hearts" for number in range(40)]
    found = PromptStore(config, CPU, tmp_path / "crowd").encode([*crowd, "two stars"])
    for name, value in alone.items():
        assert torch.equal(found[name][-1], value[0])


def test_other_encoders_have_another_place(config: Sd3Config, tmp_path: Path) -> None:
    other = build_tiny_pipeline(tmp_path / "other", seed=1)
    changes = (
        {"path": str(other)},
        {"max_sequence_length": 8},
        {"dtype": "bfloat16"},
        {"load_text_encoder_3": True},
        {"path": "org/name", "revision": "a"},
        {"path": "org/name", "revision": "b"},
    )
    digests = {dataclasses.replace(config, **change).encoder_digest() for change in changes}
    assert len(digests | {config.encoder_digest()}) == len(changes) + 1


@pytest.fixture(scope="module")
def with_t5(config: Sd3Config, tmp_path_factory: pytest.TempPathFactory) -> Sd3Config:
    """The same pipeline with a third text encoder."""
    absent = dict.fromkeys(("text_encoder_3", "tokenizer_3", "image_encoder", "feature_extractor"))
    pipeline = StableDiffusion3Pipeline.from_pretrained(config.path, **absent)
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = T5Tokenizer(vocab=[(piece, 0.0) for piece in pieces], extra_ids=0)
    torch.manual_seed(3)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    encoder = T5EncoderModel(T5Config(vocab_size=len(tokenizer), **sizes))
    pipeline.register_modules(text_encoder_3=encoder, tokenizer_3=tokenizer)
    directory = tmp_path_factory.mktemp("three")
    pipeline.save_pretrained(directory)
    return dataclasses.replace(
        config, path=str(directory), max_sequence_length=12, load_text_encoder_3=True
    )


def test_the_third_encoder_has_a_length_of_its_own_and_can_be_left_out(
    with_t5: Sd3Config, tmp_path: Path
) -> None:
    found = {}
    for length, has_t5 in ((12, True), (7, True), (12, False)):
        config = dataclasses.replace(
            with_t5, max_sequence_length=length, load_text_encoder_3=has_t5
        )
        found[length, has_t5] = PromptStore(config, CPU, tmp_path).encode(PROMPTS)
        expected = SD3Model.load(config).encode_prompts(PROMPTS)
        for name, value in expected.items():
            assert torch.allclose(found[length, has_t5][name], value, atol=1e-5)
    clip = found[12, True]["prompt_embeds"].shape[1] - 12
    assert found[7, True]["prompt_embeds"].shape[1] == clip + 7
    assert found[12, True]["prompt_embeds"][:, clip:].abs().min() > 0
    assert found[12, False]["prompt_embeds"][:, clip:].abs().max() == 0
    assert torch.equal(
        found[12, True]["prompt_embeds"][:, :clip], found[12, False]["prompt_embeds"][:, :clip]
    )
