"""The laboratory's base model: a StableDiffusion3Pipeline trained on the broad, noisy pictures."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderDC,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from soarbench.common.files import write_atomically
from soarbench.lab.build.autoencoder import LATENT_CHANNELS, encode_all
from soarbench.lab.build.training import DrawnData, Row, StageRecipe, train_on_draws
from soarbench.lab.world.grammar import EVALUATION_PREFIX, TRAINING_PREFIXES, all_compositions

MAX_TOKENS = 16
TEXT_WIDTH = 64
WIDTH = 192
RECIPE = StageRecipe(
    steps=5000,
    batch_size=64,
    learning_rate=1.2e-3,
    warmup_steps=300,
    ema_decay=0.999,
    save_steps=500,
    seed=2,
)
CONDITION_DROPOUT = 0.1
_START, _END = "<|startoftext|>", "<|endoftext|>"


def _captions() -> list[str]:
    """Every caption the grammar can say."""
    prefixes = (*TRAINING_PREFIXES, EVALUATION_PREFIX)
    phrases = [c.phrase for pool in all_compositions().values() for c in pool]
    return [prefix + phrase for phrase in phrases for prefix in prefixes]


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIPTokenizer whose byte pairs were learned on the grammar, so that a word is one token."""
    bpe = Tokenizer(models.BPE(unk_token=_END, end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    letters = sorted("abcdefghijklmnopqrstuvwxyz\"',.")
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        # Symbols that the trainer finds by itself get ids in the random order of a hash table, by
        # which it then breaks ties between pairs; these are there before it looks. An interrupted
        # stage has to go on with the tokens it began with.
        special_tokens=[_START, _END, *letters, *(letter + "</w>" for letter in letters)],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bpe.train_from_iterator(_captions(), trainer)
    learned = json.loads(bpe.to_str())["model"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(learned["vocab"]))
    merges = [" ".join(pair) for pair in learned["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        model_max_length=MAX_TOKENS,
        pad_token=_END,
    )


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """A three-layer CLIP text encoder with fresh weights."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=2,
        projection_dim=TEXT_WIDTH,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config)


def new_transformer() -> SD3Transformer2DModel:
    """SD3.5's architecture, small: qk-norm, dual attention in the first layers, patches of two."""
    # Of the cost on a CPU the matrix products are nearly all: 16 tokens of width 192 take 0.48 s a
    # step of 64 where 64 tokens of width 128 take 0.7.
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=6,
        attention_head_dim=32,
        num_attention_heads=WIDTH // 32,
        joint_attention_dim=2 * TEXT_WIDTH,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=2 * TEXT_WIDTH,
        pos_embed_max_size=4,
        dual_attention_layers=(0, 1),
        qk_norm="rms_norm",
    )


class BaseLoss(nn.Module):
    """Flow matching of latents given captions; text encoders and transformer learn together."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.transformer = new_transformer()
        self.text_encoder = new_text_encoder(tokenizer)
        self.text_encoder_2 = new_text_encoder(tokenizer)

    def forward(
        self, x0: Tensor, input_ids: Tensor, noise: Tensor, sigma: Tensor
    ) -> dict[str, Tensor]:
        """Mean squared error of the velocity; x0 and noise (B, 8, 8, 8), input_ids (B, 16)."""
        outputs = [
            encoder(input_ids, output_hidden_states=True)
            for encoder in (self.text_encoder, self.text_encoder_2)
        ]
        level = sigma.view(-1, 1, 1, 1)
        velocity = self.transformer(
            hidden_states=(1 - level) * x0 + level * noise,
            timestep=1000 * sigma,
            # diffusers' encode_prompt takes CLIP's last layer but one.
            encoder_hidden_states=torch.cat([o.hidden_states[-2] for o in outputs], dim=-1),
            pooled_projections=torch.cat([o.text_embeds for o in outputs], dim=-1),
        ).sample
        return {"loss": (velocity - (noise - x0)).square().mean()}


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Padded to what the models read. -> (N, MAX_TOKENS)."""
    ids: Tensor = tokenizer(
        captions, padding="max_length", max_length=MAX_TOKENS, return_tensors="pt"
    ).input_ids
    assert ids.shape[1] == MAX_TOKENS, "a caption of the grammar is longer than the models read"
    return ids


def build_base(
    data: DrawnData,
    autoencoder: AutoencoderDC,
    tokenizer: CLIPTokenizer,
    folder: Path,
    pipeline_dir: Path,
) -> None:
    """Train the base model and save it as a pipeline directory in diffusers' own layout."""
    latents_path = folder / "latents.pt"
    if not latents_path.exists():
        encoded = encode_all(autoencoder, data.pixels)
        write_atomically(latents_path, lambda partial: torch.save(encoded, partial))
    latents = torch.load(latents_path, weights_only=True)
    x0 = (latents - autoencoder.config.shift_factor) * autoencoder.config.scaling_factor
    tokens = token_ids(tokenizer, [*data.captions, ""])
    torch.manual_seed(RECIPE.seed)
    module = BaseLoss(tokenizer)

    def row(chosen: int, generator: torch.Generator) -> Row:
        dropped = float(torch.rand((), generator=generator)) < CONDITION_DROPOUT
        return {
            "x0": x0[chosen],
            "input_ids": tokens[-1 if dropped else chosen],
            "noise": torch.randn(x0.shape[1:], generator=generator),
            # Logit-normal, as SD3's pre-training draws it (arXiv:2403.03206).
            "sigma": torch.sigmoid(torch.randn((), generator=generator)),
        }

    train_on_draws(module, RECIPE, folder, len(x0), row)
    save_pipeline(module, autoencoder, tokenizer, pipeline_dir)


def save_pipeline(
    module: BaseLoss, autoencoder: AutoencoderDC, tokenizer: CLIPTokenizer, pipeline_dir: Path
) -> None:
    """Save as StableDiffusion3Pipeline."""
    pipeline = StableDiffusion3Pipeline(
        transformer=module.transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=autoencoder,
        text_encoder=module.text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=module.text_encoder_2,
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    # Where it was trained is nobody's business, and makes the digest of every build another.
    autoencoder.register_to_config(_name_or_path="")
    # In half precision, before anything is measured: what is shipped is what is scored.
    pipeline.to(torch.float16).save_pretrained(pipeline_dir)
