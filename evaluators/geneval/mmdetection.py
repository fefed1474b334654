"""GenEval's published detector: mmdetection's checkpoint under transformers' names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

from evaluators.clip.open_clip_models import load_strictly, load_tensors
from evaluators.weights import WeightsError

_SWIN = "model.pixel_level_module.encoder.swin."
_PIXELS, _QUERIES = "model.pixel_level_module.decoder.", "model.transformer_module."
# mmdetection's names, the first that fits counts. {} stands for a number, which is kept.
_NAMES = {
    "backbone.patch_embed.projection.": f"{_SWIN}embeddings.patch_embeddings.projection.",
    "backbone.patch_embed.norm.": f"{_SWIN}embeddings.norm.",
    "backbone.stages.{}.downsample.": f"{_SWIN}encoder.layers.{{}}.downsample.",
    "backbone.stages.{}.blocks.{}.": f"{_SWIN}encoder.layers.{{}}.blocks.{{}}.",
    "panoptic_head.pixel_decoder.level_encoding.weight": f"{_PIXELS}level_embed",
    "panoptic_head.pixel_decoder.input_convs.{}.conv.": f"{_PIXELS}input_projections.{{}}.0.",
    "panoptic_head.pixel_decoder.input_convs.{}.gn.": f"{_PIXELS}input_projections.{{}}.1.",
    "panoptic_head.pixel_decoder.lateral_convs.0.conv.": f"{_PIXELS}adapter_1.0.",
    "panoptic_head.pixel_decoder.lateral_convs.0.gn.": f"{_PIXELS}adapter_1.1.",
    "panoptic_head.pixel_decoder.output_convs.0.conv.": f"{_PIXELS}layer_1.0.",
    "panoptic_head.pixel_decoder.output_convs.0.gn.": f"{_PIXELS}layer_1.1.",
    "panoptic_head.pixel_decoder.mask_feature.": f"{_PIXELS}mask_projection.",
    "panoptic_head.pixel_decoder.encoder.layers.{}.": f"{_PIXELS}encoder.layers.{{}}.",
    "panoptic_head.transformer_decoder.layers.{}.": f"{_QUERIES}decoder.layers.{{}}.",
    "panoptic_head.transformer_decoder.post_norm.": f"{_QUERIES}decoder.layernorm.",
    "panoptic_head.query_embed.": f"{_QUERIES}queries_embedder.",
    "panoptic_head.query_feat.": f"{_QUERIES}queries_features.",
    "panoptic_head.level_embed.": f"{_QUERIES}level_embed.",
    "panoptic_head.mask_embed.": f"{_QUERIES}decoder.mask_predictor.mask_embedder.",
    "panoptic_head.cls_embed.": "class_predictor.",
}
_PATTERNS = [
    (re.compile(re.escape(old).replace(r"\{\}", r"(\d+)")), new) for old, new in _NAMES.items()
]
# Of what stands in a layer. In the decoder of queries, attention 0 looks at the image.
_BLOCK = {
    "norm1.": "layernorm_before.",
    "norm2.": "layernorm_after.",
    "attn.w_msa.relative_position_bias_table":
        "attention.relative_position_bias.relative_position_bias_table",
    "attn.w_msa.proj.": "attention.o_proj.",
    "ffn.layers.0.0.": "mlp.fc1.",
    "ffn.layers.1.": "mlp.fc2.",
}  # fmt: skip
_PIXEL_LAYER = {
    "attentions.0.": "self_attn.",
    "norms.0.": "self_attn_layer_norm.",
    "norms.1.": "final_layer_norm.",
}
_QUERY_LAYER = {
    "attentions.0.attn.": "cross_attn.",
    "attentions.1.attn.": "self_attn.",
    "norms.0.": "cross_attn_layer_norm.",
    "norms.1.": "self_attn_layer_norm.",
    "norms.2.": "final_layer_norm.",
}
_FEED_FORWARD = {"ffns.0.layers.0.0.": "fc1.", "ffns.0.layers.1.": "fc2."}
_MASK_LAYERS = {"0.": "0.0.", "2.": "1.0.", "4.": "2.0."}
_LAYERS = {
    f"{_SWIN}encoder.layers.": _BLOCK,
    f"{_PIXELS}encoder.layers.": _PIXEL_LAYER | _FEED_FORWARD,
    f"{_QUERIES}decoder.layers.": _QUERY_LAYER | _FEED_FORWARD,
    f"{_QUERIES}decoder.mask_predictor.mask_embedder.": _MASK_LAYERS,
}
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
#: Of transformers' model, which no detection depends on and mmdetection's lacks.
_UNUSED = (f"{_SWIN}layernorm.weight", f"{_SWIN}layernorm.bias", "criterion.empty_weight")


def published_config() -> Mask2FormerConfig:
    """The architecture of mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco."""
    backbone = SwinConfig(
        image_size=224, embed_dim=96, depths=[2, 2, 18, 2], num_heads=[3, 6, 12, 24],
        window_size=7, out_features=["stage1", "stage2", "stage3", "stage4"],  # type: ignore[call-arg]
    )  # fmt: skip
    return Mask2FormerConfig(backbone_config=backbone, num_queries=100, num_labels=80)  # type: ignore[call-arg]


def load_mmdetection(
    path: Path, config: Mask2FormerConfig | None = None
) -> Mask2FormerForUniversalSegmentation:
    """The model of mmdetection's checkpoint; ``WeightsError`` where it is another detector's."""
    state = converted(load_tensors(path))
    model = Mask2FormerForUniversalSegmentation(config or published_config())
    own = model.state_dict()
    try:
        load_strictly(model, {name: own[name] for name in _UNUSED} | state, path)
    except WeightsError as error:
        raise WeightsError(
            f"detector {path} is not mmdetection's Mask2Former Swin-S for COCO instances ({error})"
        ) from error
    return model


def converted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of mmdetection's Mask2Former on Swin under transformers' names.

    Names that are not known stay as they are. Source: mmdetection 2.25's modules, which
    transformers' were compared with on random weights: logits differ by at most 1e-4.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        # A table of indices that follows from the window's size.
        if name.endswith("relative_position_index"):
            continue
        tensors |= _arranged(_renamed(name), tensor)
    return tensors


def _renamed(name: str) -> str:
    if norm := re.fullmatch(r"backbone\.norm(\d)\.(\w+)", name):
        stage, kind = int(norm[1]) + 1, norm[2]
        return f"model.pixel_level_module.encoder.hidden_states_norms.stage{stage}.{kind}"
    for pattern, new in _PATTERNS:
        if match := pattern.match(name):
            return _renamed_part(new.format(*match.groups()), name[match.end() :])
    return name


def _renamed_part(prefix: str, part: str) -> str:
    names = next((names for start, names in _LAYERS.items() if prefix.startswith(start)), {})
    for old, new in names.items():
        if part.startswith(old):
            return prefix + new + part.removeprefix(old)
    return prefix + part


def _arranged(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """One entry as transformers keeps it: three of joint projections, merged patches by place."""
    if ".downsample." in name:
        return {name: _merged_by_place(tensor)}
    parts = tensor.chunk(3) if len(tensor) % 3 == 0 else ()
    if match := re.fullmatch(r"(.*)\.attn\.w_msa\.qkv\.(\w+)", name):
        return {
            f"{match[1]}.attention.{projection}.{match[2]}": part
            for projection, part in zip(_PROJECTIONS, parts, strict=bool(parts))
        }
    if match := re.fullmatch(r"(.*self_attn)\.in_proj_(\w+)", name):
        return {
            f"{match[1]}.{projection}.{match[2]}": part
            for projection, part in zip(_PROJECTIONS, parts, strict=bool(parts))
        }
    return {name: tensor}


def _merged_by_place(tensor: Tensor) -> Tensor:
    """Swin's patch merging: mmdetection's columns are channel by channel, transformers' by place.

    The four places of a patch are (0, 0), (0, 1), (1, 0), (1, 1) in the one and (0, 0), (1, 0),
    (0, 1), (1, 1) in the other. Norms have one value a column; (..., 4 C) in and out.
    """
    if tensor.shape[-1] % 4 or (tensor.ndim == 2 and tensor.shape[0] * 2 != tensor.shape[1]):
        return tensor
    by_channel: Tensor = tensor.unflatten(-1, (-1, 4))
    return by_channel[..., torch.tensor([0, 2, 1, 3])].transpose(-1, -2).flatten(-2)
