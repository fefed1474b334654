"""Tiny random models of the published classes, saved in the published formats."""

from pathlib import Path

import open_clip
import torch
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

from evaluators.clip.open_clip_models import save_open_clip

CLIP_CONFIG = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def save_clip(folder: Path, seed: int = 0) -> str:
    """A CLIP that tells inputs apart. -> its folder."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.CLIP(**CLIP_CONFIG)
        # Towers of small random weights are all but blind; these tell inputs apart.
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=4 * weight[0].numel() ** -0.5)
    save_open_clip(folder, model, {"model_cfg": CLIP_CONFIG})
    return str(folder)


def mask2former_config(num_labels: int = 80, num_queries: int = 12) -> Mask2FormerConfig:
    """The published detector's class, as small as it goes."""
    backbone = SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],  # type: ignore[call-arg]
    )  # fmt: skip
    return Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32,
        encoder_feedforward_dim=16, dim_feedforward=16, encoder_layers=1, decoder_layers=2,
        num_attention_heads=2, num_queries=num_queries, num_labels=num_labels,  # type: ignore[call-arg]
    )  # fmt: skip


def save_mask2former(folder: Path, favourite: int | None = None, num_labels: int = 80) -> str:
    """A detector that guesses; with ``favourite`` it is sure that everything is that class."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Mask2FormerForUniversalSegmentation(mask2former_config(num_labels))
        if favourite is not None:
            with torch.no_grad():
                model.class_predictor.bias[favourite] += 8.0
    model.save_pretrained(folder)
    return str(folder)


def save_sparse_mask2former(folder: Path, favourite: int) -> str:
    """As many queries as the published detector; a few see the favourite class, most nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Mask2FormerForUniversalSegmentation(mask2former_config(num_queries=100))
        with torch.no_grad():
            predictor = model.class_predictor
            direction = torch.randn(predictor.in_features)
            predictor.weight.zero_()
            predictor.bias.fill_(-12.0)
            # The normalised query's component along a direction is about N(0, 1) over queries.
            predictor.weight[favourite] = 8 * direction / direction.norm()
            predictor.bias[favourite] = -8 * 1.5
            predictor.bias[-1] = 0.0
    model.save_pretrained(folder)
    return str(folder)
