"""ImageReward's network (arXiv:2304.05977), ported to transformers' BLIP classes."""

# A port, since the authors' package does not run on current transformers (ImageReward PR#118).

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from torch import Tensor, nn
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from evaluators.clip.open_clip_models import load_strictly, load_tensors
from evaluators.preference.rating_head import AestheticHead
from evaluators.weights import WeightsError

#: Of the raw reward, as the authors standardise it (ImageReward.py).
REWARD_MEAN, REWARD_STD = 0.16717362830052426, 1.0333394966054072
MAX_TOKENS = 35
# The checkpoint states no number of heads; BLIP ViT-L and BERT have them 64 wide throughout.
_HEAD_WIDTH = 64

# Published name of an image encoder's entry -> transformers' name.
_RENAMES = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^norm\.", "post_layernorm."),
    (r"^blocks\.(\d+)\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.\1.self_attn.qkv."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"^blocks\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
)


def _renamed(key: str) -> str:
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


class ImageRewardModel(nn.Module):
    """BLIP's image encoder, BERT with cross-attention to it, and an MLP on the first token."""

    def __init__(self, vision: BlipVisionConfig, text: BlipTextConfig) -> None:
        super().__init__()
        self.vision = BlipVisionModel(vision)
        self.text = BlipTextModel(text, add_pooling_layer=False)
        self.mlp = AestheticHead(text.hidden_size)

    def forward(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Standardised rewards (B,) of pairs, float32.

        Args:
            pixels: (B, 3, S, S), normalised as CLIP's.
            input_ids: (B, MAX_TOKENS), BERT's ids, the first being [CLS].
            attention_mask: (B, MAX_TOKENS), 1 at tokens.
        """
        seen = self.vision(pixel_values=pixels).last_hidden_state
        read = self.text(
            input_ids=input_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=seen,
            # Else transformers masks the future, and the first token reads no other.
            is_decoder=False,
        ).last_hidden_state
        raw = cast(Tensor, self.mlp(read[:, 0].float()))
        return (raw - REWARD_MEAN) / REWARD_STD


def _configs(
    vision: Mapping[str, Tensor], text: Mapping[str, Tensor]
) -> tuple[BlipVisionConfig, BlipTextConfig]:
    """The shapes of the two encoders, read off their published entries."""
    width, _, patch, _ = vision["patch_embed.proj.weight"].shape
    # One position is the class token's.
    side = round((vision["pos_embed"].shape[1] - 1) ** 0.5)
    vocabulary, hidden = text["embeddings.word_embeddings.weight"].shape
    vision_config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=vision["blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=_num_layers(vision, "blocks"),
        num_attention_heads=width // _HEAD_WIDTH,
        image_size=side * patch,
        patch_size=patch,
        # BLIP's own image encoder; transformers' default is 1e-5.
        layer_norm_eps=1e-6,
    )
    text_config = BlipTextConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        encoder_hidden_size=width,
        intermediate_size=text["encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=_num_layers(text, "encoder.layer"),
        num_attention_heads=hidden // _HEAD_WIDTH,
        max_position_embeddings=text["embeddings.position_embeddings.weight"].shape[0],
        # Marks of a decoder, which the reward does not use.
        bos_token_id=None,
        sep_token_id=None,
    )
    return vision_config, text_config


def _num_layers(part: Mapping[str, Tensor], prefix: str) -> int:
    matches = (re.match(rf"{re.escape(prefix)}\.(\d+)\.", key) for key in part)
    return 1 + max(int(match[1]) for match in matches if match)


def load_published(path: Path) -> ImageRewardModel:
    """The model of ``ImageReward.pt``, on the CPU; ``WeightsError`` where the file is another's."""
    state = load_tensors(path)
    vision, text, mlp = (
        {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        for prefix in ("blip.visual_encoder.", "blip.text_encoder.", "mlp.")
    )
    # A buffer of old transformers that counts 0, 1, 2 ...; the present BLIP makes its own.
    text.pop("embeddings.position_ids", None)
    try:
        configs = _configs(vision, text)
    except (KeyError, ValueError) as err:
        raise WeightsError(f"weights {path} are not ImageReward's: {err} is missing") from err
    model = ImageRewardModel(*configs)
    load_strictly(model.vision, {_renamed(key): value for key, value in vision.items()}, path)
    load_strictly(model.text, text, path)
    load_strictly(model.mlp, {key: value.float() for key, value in mlp.items()}, path)
    return model.eval().requires_grad_(False)
