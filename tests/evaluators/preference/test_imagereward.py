"""ImageReward's port against an independent computation from the published entries."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torchvision import transforms
from transformers import PreTrainedTokenizerFast

from evaluators.preference.imagereward import ImageRewardConfig
from evaluators.preference.imagereward_model import load_published
from evaluators.weights import WeightsError

SIZE, PATCH, LAYERS = 32, 16, 2
VISION, TEXT, VOCABULARY = 128, 64, 12


def published_state(seed=0):
    """Random entries under the names of ``ImageReward.pt``."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "blip.visual_encoder.cls_token": (1, 1, VISION),
        "blip.visual_encoder.pos_embed": (1, (SIZE // PATCH) ** 2 + 1, VISION),
        "blip.visual_encoder.patch_embed.proj.weight": (VISION, 3, PATCH, PATCH),
        "blip.visual_encoder.patch_embed.proj.bias": (VISION,),
        "blip.text_encoder.embeddings.word_embeddings.weight": (VOCABULARY, TEXT),
        "blip.text_encoder.embeddings.position_embeddings.weight": (40, TEXT),
        # Trained with the rest and not used by the reward.
        "blip.vision_proj.weight": (16, VISION),
        "blip.vision_proj.bias": (16,),
        "blip.text_proj.weight": (16, TEXT),
        "blip.text_proj.bias": (16,),
    }
    linears = {}
    norms = {"blip.visual_encoder.norm": VISION, "blip.text_encoder.embeddings.LayerNorm": TEXT}
    for i in range(LAYERS):
        block = f"blip.visual_encoder.blocks.{i}"
        linears[f"{block}.attn.qkv"] = (3 * VISION, VISION)
        linears[f"{block}.attn.proj"] = (VISION, VISION)
        linears[f"{block}.mlp.fc1"] = (4 * VISION, VISION)
        linears[f"{block}.mlp.fc2"] = (VISION, 4 * VISION)
        norms[f"{block}.norm1"] = norms[f"{block}.norm2"] = VISION
        layer = f"blip.text_encoder.encoder.layer.{i}"
        for kind, width in (("attention", TEXT), ("crossattention", VISION)):
            linears[f"{layer}.{kind}.self.query"] = (TEXT, TEXT)
            linears[f"{layer}.{kind}.self.key"] = (TEXT, width)
            linears[f"{layer}.{kind}.self.value"] = (TEXT, width)
            linears[f"{layer}.{kind}.output.dense"] = (TEXT, TEXT)
            norms[f"{layer}.{kind}.output.LayerNorm"] = TEXT
        linears[f"{layer}.intermediate.dense"] = (3 * TEXT, TEXT)
        linears[f"{layer}.output.dense"] = (TEXT, 3 * TEXT)
        norms[f"{layer}.output.LayerNorm"] = TEXT
    widths = (TEXT, 1024, 128, 64, 16, 1)
    for index, wide, narrow in zip((0, 2, 4, 6, 7), widths, widths[1:], strict=False):
        linears[f"mlp.layers.{index}"] = (narrow, wide)
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    state = {
        key: torch.randn(shape, generator=generator) * (1.5 / math.sqrt(shape[-1]))
        for key, shape in shapes.items()
    }
    for name, width in norms.items():
        state[f"{name}.weight"] = 1 + 0.3 * torch.randn(width, generator=generator)
        state[f"{name}.bias"] = 0.3 * torch.randn(width, generator=generator)
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(40)[None]
    return state


def linear(state, name, x):
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def norm(state, name, x, eps):
    weight = state[f"{name}.weight"]
    return F.layer_norm(x, weight.shape, weight, state[f"{name}.bias"], eps)


def attention(query, key, value, mask=None):
    """Heads of 64; query (B, T, D), key and value (B, S, D)."""
    heads = query.shape[-1] // 64
    query, key, value = (x.unflatten(-1, (heads, 64)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2).flatten(2)


def reference_rewards(state, pixels, ids, mask):
    """BLIP's image encoder, BERT with cross-attention and the MLP, entry by entry."""
    eye = "blip.visual_encoder"
    x = F.conv2d(
        pixels,
        state[f"{eye}.patch_embed.proj.weight"],
        state[f"{eye}.patch_embed.proj.bias"],
        stride=PATCH,
    )
    x = x.flatten(2).transpose(1, 2)
    first = state[f"{eye}.cls_token"].expand(len(x), 1, VISION)
    x = torch.cat([first, x], dim=1) + state[f"{eye}.pos_embed"]
    for i in range(LAYERS):
        block = f"{eye}.blocks.{i}"
        mixed = linear(state, f"{block}.attn.qkv", norm(state, f"{block}.norm1", x, 1e-6))
        x = x + linear(state, f"{block}.attn.proj", attention(*mixed.chunk(3, dim=-1)))
        hidden = linear(state, f"{block}.mlp.fc1", norm(state, f"{block}.norm2", x, 1e-6))
        x = x + linear(state, f"{block}.mlp.fc2", F.gelu(hidden))
    seen = norm(state, f"{eye}.norm", x, 1e-6)

    bert = "blip.text_encoder"
    words = state[f"{bert}.embeddings.word_embeddings.weight"][ids]
    places = state[f"{bert}.embeddings.position_embeddings.weight"][: ids.shape[1]]
    y = norm(state, f"{bert}.embeddings.LayerNorm", words + places, 1e-12)
    for i in range(LAYERS):
        layer = f"{bert}.encoder.layer.{i}"
        for kind, source in (("attention", None), ("crossattention", seen)):
            part = f"{layer}.{kind}"
            source_states = y if source is None else source
            heard = attention(
                linear(state, f"{part}.self.query", y),
                linear(state, f"{part}.self.key", source_states),
                linear(state, f"{part}.self.value", source_states),
                mask[:, None, None, :].bool() if source is None else None,
            )
            y = norm(
                state,
                f"{part}.output.LayerNorm",
                y + linear(state, f"{part}.output.dense", heard),
                1e-12,
            )
        hidden = F.gelu(linear(state, f"{layer}.intermediate.dense", y))
        y = norm(
            state,
            f"{layer}.output.LayerNorm",
            y + linear(state, f"{layer}.output.dense", hidden),
            1e-12,
        )
    z = y[:, 0]
    for index in (0, 2, 4, 6, 7):
        z = linear(state, f"mlp.layers.{index}", z)
    return (z[:, 0] - 0.16717362830052426) / 1.0333394966054072


@pytest.fixture(scope="module")
def state():
    return published_state()


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory):
    """A word tokenizer that marks and pads as BERT's does."""
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "photo", "of", "red", "circle", "star"]
    ids = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("reward") / "ImageReward.pt"
    torch.save(state, path)
    return path


def evaluator(checkpoint, tokenizer_dir, **values):
    config = ImageRewardConfig(
        weights=str(checkpoint), tokenizer=str(tokenizer_dir), device="cpu", **values
    )
    return config.build()


def prepared(samples, tokenizer_dir):
    """Pixels, ids and mask, made with torchvision and the tokenizer directly."""
    transform = transforms.Compose(
        [
            transforms.Resize(SIZE, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(SIZE),
            transforms.ToTensor(),
            transforms.Normalize(
                (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
            ),
        ]
    )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_dir)
    tokens = tokenizer(
        [sample.prompt for sample in samples],
        padding="max_length",
        max_length=35,
        truncation=True,
        return_tensors="pt",
    )
    pixels = torch.stack([transform(sample.image) for sample in samples])
    return pixels, tokens["input_ids"], tokens["attention_mask"]


def test_rewards_equal_the_independent_computation(state, checkpoint, tokenizer_dir, samples):
    with torch.no_grad():
        expected = reference_rewards(state, *prepared(samples, tokenizer_dir)).numpy()
    found = [score.value for score in evaluator(checkpoint, tokenizer_dir).score(samples)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.ptp(expected) > 0.5


def test_scores_pairs_and_not_all_combinations(checkpoint, tokenizer_dir, samples):
    judge = evaluator(checkpoint, tokenizer_dir, batch_size=6)
    together = [score.value for score in judge.score(samples)]
    apart = [judge.score([sample])[0].value for sample in samples]
    np.testing.assert_allclose(together, apart, rtol=1e-4, atol=1e-4)


def test_prompt_and_image_both_matter(checkpoint, tokenizer_dir, samples):
    model = load_published(checkpoint)
    pixels, ids, mask = prepared(samples[:2], tokenizer_dir)
    with torch.no_grad():
        straight = model(pixels, ids, mask)
        crossed = model(pixels.flip(0), ids, mask).flip(0)
        other_prompt = model(pixels, ids.flip(0), mask.flip(0))
    assert (straight - crossed).abs().min() > 0.02
    assert (straight - other_prompt).abs().min() > 0.02


def test_bfloat16_is_near_float32(checkpoint, tokenizer_dir, samples):
    exact = evaluator(checkpoint, tokenizer_dir).score(samples)
    rough = evaluator(checkpoint, tokenizer_dir, dtype="bfloat16").score(samples)
    for one, other in zip(exact, rough, strict=True):
        assert other.value == pytest.approx(one.value, rel=0.02, abs=0.2)


def test_safetensors_hold_the_same_entries(state, checkpoint, tokenizer_dir, samples, tmp_path):
    path = tmp_path / "ImageReward.safetensors"
    save_file(state, path)
    expected = evaluator(checkpoint, tokenizer_dir).score(samples)
    assert evaluator(path, tokenizer_dir).score(samples) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("mlp.layers.7.bias"), r"layers\.7\.bias is missing"),
        (lambda state: state.pop("blip.visual_encoder.pos_embed"), "pos_embed"),
        (
            lambda state: state.pop("blip.text_encoder.encoder.layer.1.output.dense.bias"),
            r"encoder\.layer\.1\.output\.dense\.bias is missing",
        ),
        (
            lambda state: state.update({"blip.visual_encoder.norm.weight": torch.ones(3)}),
            r"post_layernorm\.weight is \(3,\), not \(128,\)",
        ),
    ],
)
def test_incomplete_checkpoints_are_refused(state, tokenizer_dir, tmp_path, change, message):
    changed = dict(state)
    change(changed)
    path = tmp_path / "ImageReward.pt"
    torch.save(changed, path)
    with pytest.raises(WeightsError, match=message):
        evaluator(path, tokenizer_dir).config.load()


def test_a_missing_tokenizer_is_refused(checkpoint, tmp_path):
    with pytest.raises(WeightsError, match="BERT"):
        evaluator(checkpoint, tmp_path).config.load()
