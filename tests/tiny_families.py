"""Pipelines of tiny random parts, of the same classes as the families' published ones."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer(folder: Path) -> Qwen2Tokenizer:
    """Qwen's tokenizer with a token a byte."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [*sorted(ByteLevel.alphabet()), *_SPECIAL]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return Qwen2Tokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        pad_token=_SPECIAL[0],
        eos_token=_SPECIAL[2],
        chat_template=_TEMPLATE,
    )


def tiny_qwen3(num_words: int, num_layers: int) -> Qwen3ForCausalLM:
    """A language model of width 8."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=num_words,
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=num_layers,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=4,
            max_position_embeddings=64,
        )
    )


def tiny_flux2_transformer(seed: int = 0) -> Flux2Transformer2DModel:
    """Two layers of each kind, width 16, 32 channels."""
    torch.manual_seed(seed)
    return Flux2Transformer2DModel(
        in_channels=32,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=24,
        timestep_guidance_channels=16,
        axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=False,
    )


def build_flux2_klein(folder: Path, *, is_distilled: bool = False) -> Path:
    """Save a tiny pipeline whose text encoder has the 27 layers of which three are read."""
    transformer = tiny_flux2_transformer()
    tokenizer = byte_tokenizer(folder / "tokenizer_source")
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=2,
    )
    # Else it would not be seen whether they are used at all.
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2.0)
    Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae,
        text_encoder=tiny_qwen3(len(tokenizer), num_layers=27),
        tokenizer=tokenizer,
        transformer=transformer,
        is_distilled=is_distilled,
    ).save_pretrained(folder)
    return folder
