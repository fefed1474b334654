"""Tiny models of the published classes, saved in the published file formats."""

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerFast

from evaluators.base import Canary, Sample
from evaluators.clip.open_clip_models import build_open_clip, save_open_clip

WORDS = ["a", "photo", "of", "red", "green", "blue", "circle", "square", "star"]
IDS = {word: i for i, word in enumerate(["<pad>", "<unk>", "<bos>", *WORDS, "<eos>"])}
SIZE = 32


def word_tokenizer():
    """One id a word; the end has the largest id, where CLIP pools."""
    tokenizer = Tokenizer(models.WordLevel(IDS, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = [("<bos>", IDS["<bos>"]), ("<eos>", IDS["<eos>"])]
    tokenizer.post_processor = processors.TemplateProcessing("<bos> $A <eos>", special_tokens=marks)
    names = {"pad": "<pad>", "unk": "<unk>", "bos": "<bos>", "eos": "<eos>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{key}_token": value for key, value in names.items()}
    )


@pytest.fixture(scope="session")
def open_clip_config():
    return {
        "model_cfg": {
            "embed_dim": 24,
            "vision_cfg": {
                "image_size": SIZE,
                "patch_size": 8,
                "width": 32,
                "layers": 2,
                "head_width": 16,
            },
            "text_cfg": {
                "context_length": 12,
                "vocab_size": len(IDS),
                "width": 32,
                "heads": 2,
                "layers": 2,
                "hf_tokenizer_name": "tokenizer",
            },
        },
        "preprocess_cfg": {"size": SIZE, "interpolation": "bicubic"},
    }


def randomised(model, seed):
    """Weights large enough that scores differ clearly."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.25, generator=generator)
    return model


@pytest.fixture(scope="session")
def open_clip_dir(tmp_path_factory, open_clip_config):
    folder = tmp_path_factory.mktemp("open_clip")
    model = randomised(build_open_clip(open_clip_config), seed=1)
    save_open_clip(folder, model, open_clip_config, word_tokenizer())
    return folder


@pytest.fixture(scope="session")
def transformers_clip_dir(tmp_path_factory):
    """A CLIPModel as transformers saves it, with its processor and tokenizer."""
    folder = tmp_path_factory.mktemp("transformers_clip")
    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    ends = {"bos_token_id": IDS["<bos>"], "eos_token_id": IDS["<eos>"], "pad_token_id": 0}
    config = CLIPConfig(
        text_config={**tower, **ends, "vocab_size": len(IDS), "max_position_embeddings": 12},
        vision_config={**tower, "image_size": SIZE, "patch_size": 8},
        projection_dim=24,
    )
    randomised(CLIPModel(config), seed=2).save_pretrained(folder)
    square = {"height": SIZE, "width": SIZE}
    CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=square).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def samples():
    """Six pictures of different sizes, two of them under the same prompt."""
    rng = np.random.default_rng(0)
    sizes = [(32, 32), (48, 32), (32, 50), (64, 64), (32, 32), (20, 24)]
    wishes = ["red circle", "green star", "blue square", "red circle", "star", "green circle"]
    return [
        Sample(
            sample_id=str(i),
            prompt_id=wish,
            prompt=f"a photo of a {wish}",
            image=Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)),
        )
        for i, ((width, height), wish) in enumerate(zip(sizes, wishes, strict=True))
    ]


@pytest.fixture
def canary_of():
    """A canary of two samples."""
    return lambda good, bad: Canary(good=good, bad=bad)
