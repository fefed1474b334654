"""A StableDiffusion3Pipeline of tiny random parts, of the same classes as SD3.5's."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from soarbench.lab.build.base import build_tokenizer


def tiny_transformer(seed: int = 0) -> SD3Transformer2DModel:
    """Two layers, width 32, 8 latent channels, 8 x 8 latents."""
    torch.manual_seed(seed)
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=8,
        out_channels=8,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )


def tiny_t5(num_words: int) -> T5EncoderModel:
    """An encoder as wide as the tiny transformer's condition."""
    return T5EncoderModel(
        T5Config(vocab_size=num_words, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    )


def build_tiny_pipeline(
    directory: Path, seed: int = 0, shift: float = 3.0, *, has_t5: bool = False
) -> Path:
    """Save a tiny pipeline (64 px images, latents 8 x 8 x 8) and return its directory."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(directory / "tokenizer_source")
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=16,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=8,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.5305,
        shift_factor=0.0609,
    )
    pipeline = StableDiffusion3Pipeline(
        transformer=tiny_transformer(seed),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=vae,
        text_encoder=CLIPTextModelWithProjection(text),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer_2=tokenizer,
        text_encoder_3=tiny_t5(len(tokenizer)) if has_t5 else None,
        # T5's own tokenizer needs a trained vocabulary; the encoder takes any numbers.
        tokenizer_3=tokenizer if has_t5 else None,
    )
    pipeline.save_pretrained(directory)
    return directory
