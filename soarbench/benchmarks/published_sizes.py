"""Published models' sizes, from their config.json: of SD3.5-Medium's other parts, and of judges."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from transformers import (
    BlipTextConfig,
    BlipVisionConfig,
    CLIPConfig,
    CLIPTextConfig,
    Mask2FormerConfig,
    SwinConfig,
    T5Config,
)

from soarbench.benchmarks.full_size import random_transformer
from soarbench.models.base import Architecture

#: stabilityai/stable-diffusion-3.5-medium's autoencoder.
VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
}


def clip_l() -> CLIPTextConfig:
    """The first text encoder, CLIP ViT-L's."""
    return CLIPTextConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        projection_dim=768,
    )


def clip_g() -> CLIPTextConfig:
    """The second text encoder, CLIP ViT-bigG's."""
    return CLIPTextConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=20,
        projection_dim=1280,
        hidden_act="gelu",
    )


def t5_xxl() -> T5Config:
    """The third text encoder."""
    return T5Config(
        d_model=4096,
        d_kv=64,
        d_ff=10240,
        num_layers=24,
        num_heads=64,
        feed_forward_proj="gated-gelu",
    )


def pickscore() -> CLIPConfig:
    """CLIP ViT-H/14, as yuvalkirstain/PickScore_v1."""
    vision = {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "patch_size": 14,
    }
    text = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    }
    return CLIPConfig(vision_config=vision, text_config=text, projection_dim=1024)


def imagereward() -> tuple[BlipVisionConfig, BlipTextConfig]:
    """BLIP's ViT-L/16, and BERT with cross-attention to it."""
    vision = BlipVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=224,
        patch_size=16,
    )
    return vision, BlipTextConfig(vocab_size=30524, encoder_hidden_size=1024, bos_token_id=None)


def mask2former() -> Mask2FormerConfig:
    """GenEval's detector: Mask2Former on Swin-S, COCO's 80 classes."""
    swin = SwinConfig(
        embed_dim=96,
        depths=[2, 2, 18, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        out_features=["stage1", "stage2", "stage3", "stage4"],  # type: ignore[call-arg]
    )
    return Mask2FormerConfig(backbone_config=swin, num_labels=80)  # type: ignore[call-arg]


def random_pipeline(architecture: Architecture, dtype: torch.dtype) -> StableDiffusion3Pipeline:
    """Transformer, autoencoder and schedule on the current device; no text encoder."""
    # A smaller model may have fewer channels.
    channels = architecture.latent_shape(architecture.largest_image)[0]
    vae = AutoencoderKL(**VAE | {"latent_channels": channels}).requires_grad_(False).eval()
    return StableDiffusion3Pipeline(
        transformer=random_transformer(architecture, dtype),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        **dict.fromkeys(
            f"{kind}{number}"
            for kind in ("text_encoder", "tokenizer")
            for number in ("", "_2", "_3")
        ),
    )
