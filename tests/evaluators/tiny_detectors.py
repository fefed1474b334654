"""Tiny random models of the published classes, saved in the published formats."""

import json

import open_clip
import torch
from safetensors.torch import save_file
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

CLIP_CONFIG = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def save_clip(folder, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.CLIP(**CLIP_CONFIG)
        # Random text towers are blind; larger weights make their vectors differ.
        torch.nn.init.normal_(model.token_embedding.weight, std=1.0)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    config = {"model_cfg": CLIP_CONFIG, "preprocess_cfg": {"size": 32}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return str(folder)


def mask2former_config(num_labels=80):
    backbone = SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    return Mask2FormerConfig(
        backbone_config=backbone, feature_size=16, mask_feature_size=16, hidden_dim=16,
        encoder_feedforward_dim=16, dim_feedforward=16, encoder_layers=1, decoder_layers=2,
        num_attention_heads=2, num_queries=12, num_labels=num_labels,
    )  # fmt: skip


def save_mask2former(folder, seed=0, favourite=None, num_labels=80):
    """A detector that guesses; with ``favourite`` it is sure that everything is that class."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Mask2FormerForUniversalSegmentation(mask2former_config(num_labels))
        if favourite is not None:
            with torch.no_grad():
                model.class_predictor.bias[favourite] += 8.0
    model.save_pretrained(folder)
    return str(folder)
