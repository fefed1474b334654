"""The laboratory's CLIP (open_clip's architecture) and its aesthetic head, imperfect on purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from evaluators.clip.open_clip_models import load_open_clip, save_open_clip
from evaluators.preference.rating_head import AestheticHead, save_head
from soarbench.lab.assets import HEAD_FILE
from soarbench.lab.build.autoencoder import to_model_pixels
from soarbench.lab.build.base import MAX_TOKENS, token_ids
from soarbench.lab.build.training import DrawnData, Row, StageRecipe, train_on_draws
from soarbench.lab.world.oracles import aesthetic_truth
from soarbench.lab.world.scenes import IMAGE_SIZE

EMBED_DIM = 128
RECIPE = StageRecipe(steps=2500, batch_size=128, learning_rate=1e-3, save_steps=500, seed=3)
HEAD_RECIPE = StageRecipe(steps=1000, batch_size=64, learning_rate=1e-3, save_steps=500, seed=4)
# Pictures that were rated, and the raters' noise (points on the 1..10 scale). Both leave the head
# imperfect: Spearman's 0.73 with the truth on the base's images, which a reward can be gamed by.
NUM_RATINGS = 6000
RATING_NOISE = 0.8
_HALF = (0.5, 0.5, 0.5)


def model_config(tokenizer: CLIPTokenizer) -> dict[str, object]:
    """open_clip's ``model_cfg`` of the laboratory's CLIP."""
    layers = {"patch_size": 16, "layers": 4, "width": 128, "head_width": 32}
    return {
        "embed_dim": EMBED_DIM,
        "vision_cfg": {"image_size": IMAGE_SIZE, **layers},
        "text_cfg": {
            "context_length": MAX_TOKENS,
            "vocab_size": len(tokenizer),
            "hf_tokenizer_name": "laboratory",
            "width": 128,
            "heads": 4,
            "layers": 3,
            # CLIP pools at the largest id, its end token's; in this vocabulary that is a word's.
            "pool_type": "eos",
            "eos_id": tokenizer.eos_token_id,
        },
    }


class ContrastiveLoss(nn.Module):
    """CLIP's symmetric cross entropy over a batch of pictures and captions."""

    def __init__(self, clip: open_clip.CLIP) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, pixels: Tensor, input_ids: Tensor) -> dict[str, Tensor]:
        """Loss of pixels (B, 3, 64, 64) in -1..1 and input_ids (B, 16)."""
        image, text, scale = self.clip(pixels, input_ids)
        logits = scale * image @ text.T
        target = torch.arange(len(logits), device=logits.device)
        loss = nn.functional.cross_entropy(logits, target)
        return {"loss": (loss + nn.functional.cross_entropy(logits.T, target)) / 2}


def build_clip(data: DrawnData, tokenizer: CLIPTokenizer, folder: Path, clip_dir: Path) -> None:
    """Train the laboratory's CLIP and save it as an open_clip directory (half precision)."""
    torch.manual_seed(RECIPE.seed)
    config = model_config(tokenizer)
    clip = open_clip.CLIP(**config)
    tokens = token_ids(tokenizer, data.captions)

    def row(chosen: int, _generator: torch.Generator) -> Row:
        return {"pixels": to_model_pixels(data.pixels[chosen]), "input_ids": tokens[chosen]}

    train_on_draws(ContrastiveLoss(clip), RECIPE, folder, len(tokens), row)
    preprocess = {"size": IMAGE_SIZE, "mean": _HALF, "std": _HALF, "interpolation": "bilinear"}
    described = {"model_cfg": config, "preprocess_cfg": preprocess}
    save_open_clip(clip_dir, clip.half(), described, tokenizer)


class HeadLoss(nn.Module):
    """Squared error of the ratings that a head predicts."""

    def __init__(self, head: AestheticHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, embedding: Tensor, rating: Tensor) -> dict[str, Tensor]:
        """Loss of ratings (B,) predicted from normalised embeddings (B, EMBED_DIM)."""
        return {"loss": (self.head(embedding) - rating).square().mean()}


def build_aesthetic_head(data: DrawnData, clip_dir: Path, folder: Path, head_dir: Path) -> None:
    """Regress noisy ratings of pictures on their embeddings; keys as in the published file."""
    torch.manual_seed(HEAD_RECIPE.seed)
    pixels = data.pixels[:NUM_RATINGS]
    count, clip = len(pixels), load_open_clip(clip_dir).model
    batches = (to_model_pixels(pixels[i : i + 128]).contiguous() for i in range(0, count, 128))
    with torch.no_grad():
        embeddings = torch.cat([clip.encode_image(batch, normalize=True) for batch in batches])
    truth = np.array([aesthetic_truth(np.array(picture)) for picture in pixels])
    noise = np.random.default_rng(HEAD_RECIPE.seed).normal(0, RATING_NOISE, count)
    ratings = torch.from_numpy(truth + noise).float()
    head = AestheticHead(EMBED_DIM)

    def row(chosen: int, _generator: torch.Generator) -> Row:
        return {"embedding": embeddings[chosen], "rating": ratings[chosen]}

    train_on_draws(HeadLoss(head), HEAD_RECIPE, folder, count, row)
    head_dir.mkdir(parents=True, exist_ok=True)
    save_head(head_dir / HEAD_FILE, head.half())
