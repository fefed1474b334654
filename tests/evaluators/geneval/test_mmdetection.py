"""mmdetection's checkpoint under transformers' names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm, unfold
from transformers import Mask2FormerConfig, SwinConfig

from evaluators.geneval.config import DETECTOR
from evaluators.geneval.mask2former import load_detector
from evaluators.geneval.mmdetection import load_mmdetection, published_config
from evaluators.weights import WeightsError
from soarbench.benchmarks.tiny_detectors import mask2former_config

Shapes = dict[str, tuple[int, ...]]
#: Of the 649 lines "name (shape)" that mmdetection 2.25.3 gives for its own configuration.
LISTED = "ad9558e4f95eedcef166a8cc9b6caac5cc813e149d6e9008f8f63e617de3f3ff"


def affine(name: str, out: int, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """A weight and its bias."""
    yield f"{name}.weight", (out, *shape)
    yield f"{name}.bias", (out,)


def shapes_of(config: Mask2FormerConfig) -> Shapes:
    """Names and shapes as mmdetection 2.25 has them, by its own modules' rule."""
    return backbone(config.backbone_config) | pixel_decoder(config) | query_decoder(config)


def backbone(swin: SwinConfig) -> Shapes:
    widths = [swin.embed_dim * 2**stage for stage in range(4)]
    side = swin.window_size
    shapes = dict(affine("backbone.patch_embed.projection", widths[0], 3, 4, 4))
    shapes.update(affine("backbone.patch_embed.norm", widths[0]))
    for stage, size in enumerate(widths):
        shapes.update(affine(f"backbone.norm{stage}", size))
        for index in range(swin.depths[stage]):
            block = f"backbone.stages.{stage}.blocks.{index}"
            attention = f"{block}.attn.w_msa"
            table = ((2 * side - 1) ** 2, swin.num_heads[stage])
            shapes[f"{attention}.relative_position_bias_table"] = table
            shapes[f"{attention}.relative_position_index"] = (side**2, side**2)
            shapes.update(affine(f"{attention}.qkv", 3 * size, size))
            shapes.update(affine(f"{attention}.proj", size, size))
            shapes.update(affine(f"{block}.norm1", size))
            shapes.update(affine(f"{block}.norm2", size))
            shapes.update(affine(f"{block}.ffn.layers.0.0", 4 * size, size))
            shapes.update(affine(f"{block}.ffn.layers.1", size, 4 * size))
        if stage < 3:
            shapes.update(affine(f"backbone.stages.{stage}.downsample.norm", 4 * size))
            shapes[f"backbone.stages.{stage}.downsample.reduction.weight"] = (2 * size, 4 * size)
    return shapes


def pixel_decoder(config: Mask2FormerConfig) -> Shapes:
    widths = [config.backbone_config.embed_dim * 2**stage for stage in range(4)]
    width, levels, heads = config.hidden_dim, 3, config.num_attention_heads
    pixels = "panoptic_head.pixel_decoder"
    shapes: Shapes = {f"{pixels}.level_encoding.weight": (levels, width)}
    for index, size in enumerate(widths[:0:-1]):
        shapes.update(affine(f"{pixels}.input_convs.{index}.conv", width, size, 1, 1))
        shapes.update(affine(f"{pixels}.input_convs.{index}.gn", width))
    for index in range(config.encoder_layers):
        layer, points = f"{pixels}.encoder.layers.{index}", heads * levels * 4
        shapes.update(affine(f"{layer}.attentions.0.sampling_offsets", 2 * points, width))
        shapes.update(affine(f"{layer}.attentions.0.attention_weights", points, width))
        shapes.update(affine(f"{layer}.attentions.0.value_proj", width, width))
        shapes.update(affine(f"{layer}.attentions.0.output_proj", width, width))
        shapes.update(feed_forward(layer, width, config.encoder_feedforward_dim, num_norms=2))
    for name, size, window in (("lateral", widths[0], 1), ("output", width, 3)):
        shapes[f"{pixels}.{name}_convs.0.conv.weight"] = (width, size, window, window)
        shapes.update(affine(f"{pixels}.{name}_convs.0.gn", width))
    shapes.update(affine(f"{pixels}.mask_feature", config.mask_feature_size, width, 1, 1))
    return shapes


def query_decoder(config: Mask2FormerConfig) -> Shapes:
    head, width = "panoptic_head", config.hidden_dim
    shapes: Shapes = {
        f"{head}.query_embed.weight": (config.num_queries, width),
        f"{head}.query_feat.weight": (config.num_queries, width),
        f"{head}.level_embed.weight": (3, width),
    }
    for index in range(config.decoder_layers - 1):
        layer = f"{head}.transformer_decoder.layers.{index}"
        for number in range(2):
            attention = f"{layer}.attentions.{number}.attn"
            shapes[f"{attention}.in_proj_weight"] = (3 * width, width)
            shapes[f"{attention}.in_proj_bias"] = (3 * width,)
            shapes.update(affine(f"{attention}.out_proj", width, width))
        shapes.update(feed_forward(layer, width, config.dim_feedforward, num_norms=3))
    shapes.update(affine(f"{head}.transformer_decoder.post_norm", width))
    shapes.update(affine(f"{head}.cls_embed", config.num_labels + 1, width))
    for index in (0, 2, 4):
        shapes.update(affine(f"{head}.mask_embed.{index}", width, width))
    return shapes


def feed_forward(layer: str, width: int, inner: int, num_norms: int) -> Shapes:
    """What ends every layer of both decoders."""
    shapes = dict(affine(f"{layer}.ffns.0.layers.0.0", inner, width))
    shapes.update(affine(f"{layer}.ffns.0.layers.1", width, inner))
    for index in range(num_norms):
        shapes.update(affine(f"{layer}.norms.{index}", width))
    return shapes


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = shapes_of(mask2former_config())
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def saved(path: Path, state: dict[str, Tensor]) -> Path:
    """A checkpoint as mmdetection writes it."""
    torch.save({"meta": {"CLASSES": ("person",)}, "state_dict": state}, path)
    return path


def test_the_rule_gives_mmdetections_own_names_and_shapes() -> None:
    lines = sorted(f"{name} {shape}\n" for name, shape in shapes_of(published_config()).items())
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == LISTED


def test_every_weight_comes_to_its_place(state: dict[str, Tensor], tmp_path: Path) -> None:
    model = load_mmdetection(saved(tmp_path / "tiny.pth", state), mask2former_config())
    weights = dict(model.named_parameters())
    # All but the norm behind the last stage, which nothing reads.
    assert sum(weight.numel() for weight in weights.values()) - 2 * 64 == sum(
        tensor.numel() for name, tensor in state.items() if not name.endswith("position_index")
    )
    head, decoder = "panoptic_head.", "model.transformer_module.decoder."
    layer = f"{decoder}layers.0"
    for theirs, ours in {
        "cls_embed.weight": "class_predictor.weight",
        "mask_embed.4.bias": f"{decoder}mask_predictor.mask_embedder.2.0.bias",
        "query_feat.weight": "model.transformer_module.queries_features.weight",
        "transformer_decoder.layers.0.norms.0.bias": f"{layer}.cross_attn_layer_norm.bias",
        "pixel_decoder.level_encoding.weight": "model.pixel_level_module.decoder.level_embed",
    }.items():  # fmt: skip
        assert torch.equal(weights[ours], state[head + theirs])
    joint = state["panoptic_head.transformer_decoder.layers.0.attentions.1.attn.in_proj_weight"]
    parts = [weights[f"{decoder}layers.0.self_attn.{part}_proj.weight"] for part in "qkv"]
    assert torch.equal(torch.cat(parts), joint)


def test_patches_are_merged_as_mmdetection_merges_them(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    model = load_mmdetection(saved(tmp_path / "tiny.pth", state), mask2former_config())
    merge = model.model.pixel_level_module.encoder.swin.encoder.layers[0].downsample
    pixels = torch.randn(1, 8, 6, 4, generator=torch.Generator().manual_seed(1))
    name = "backbone.stages.0.downsample"
    columns = unfold(pixels, 2, stride=2).transpose(1, 2)
    weight, bias = state[f"{name}.norm.weight"], state[f"{name}.norm.bias"]
    expected = layer_norm(columns, (32,), weight, bias) @ state[f"{name}.reduction.weight"].T
    merged = merge(pixels.flatten(2).transpose(1, 2), (6, 4))
    torch.testing.assert_close(merged, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("panoptic_head.query_feat.weight"), "queries_features.* missing"),
        (lambda state: state.update({"roi_head.fc": torch.ones(2)}), "roi_head.fc is unknown"),
        (lambda state: state.update({"panoptic_head.cls_embed.bias": torch.ones(134)}), "134"),
        (lambda state: state.clear(), "is missing"),
    ],
)  # fmt: skip
def test_another_detectors_checkpoint_is_one_line(state, tmp_path, change, message) -> None:
    other = dict(state)
    change(other)
    with pytest.raises(WeightsError, match=message) as caught:
        load_mmdetection(saved(tmp_path / "other.pth", other), mask2former_config())
    assert "is not mmdetection's Mask2Former Swin-S" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_published_name_stands_for_the_file_that_was_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOARBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        WeightsError, match=f"detector: not in {tmp_path}.*{DETECTOR.name}"
    ) as caught:
        load_detector(DETECTOR.name)
    assert "\n" not in str(caught.value)
    DETECTOR.path.parent.mkdir()
    saved(DETECTOR.path, {"backbone.conv1.weight": torch.ones(2)})
    with pytest.raises(WeightsError, match=f"{DETECTOR.path}: another file than published"):
        load_detector(DETECTOR.name)
    monkeypatch.setattr("evaluators.downloads._check_published", lambda *_: None)
    with pytest.raises(WeightsError, match=f"detector {DETECTOR.path} is not mmdetection's"):
        load_detector(DETECTOR.name)


def test_what_is_no_checkpoint_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "detector.pth"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(WeightsError, match="cannot read weights") as caught:
        load_detector(str(path))
    assert "\n" not in str(caught.value)
