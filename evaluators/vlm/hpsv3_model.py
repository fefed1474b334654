"""HPSv3's model: Qwen2-VL without its language head, and a reward head on one token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoProcessor,
    Qwen2VLConfig,
    Qwen2VLModel,
    Qwen2VLTextConfig,
)
from transformers.initialization import no_init_weights
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from evaluators.clip.open_clip_models import load_strictly, load_tensors
from evaluators.vlm import HPSV3_BASE_FILES
from evaluators.vlm.local import chat_inputs
from evaluators.weights import WeightsError, combined_hash, first_line

#: The token at which the reward is read.
REWARD_TOKEN = "<|Reward|>"
#: Every image gets as near to this many as its ratio and patches of 28 allow.
NUM_PIXELS, PATCH = 256 * 28 * 28, 28
# Where older and newer transformers keep what ours keeps there; the first that fits counts.
_PLACES = {
    "model.visual.": "model.visual.",
    "model.language_model.": "model.language_model.",
    "visual.": "model.visual.",
    "model.": "model.language_model.",
    "rm_head.": "head.",
}


class RewardNetwork(nn.Module):
    """Qwen2-VL and the head: Linear D-1024-16-2, ReLU between.

    Source: MizzenAI/HPSv3, qwen2vl_trainer.py, ``rm_head_type`` "ranknet" as configured.
    """

    def __init__(self, config: Qwen2VLConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = cast(Qwen2VLModel, AutoModel.from_config(config, dtype=dtype))
        # Numbered with the dropout of training, as the published keys are.
        self.head = nn.Sequential(
            nn.Linear(_text(config).hidden_size, 1024),
            nn.ReLU(),
            nn.Dropout(0.05),
            nn.Linear(1024, 16),
            nn.ReLU(),
            nn.Linear(16, 2),
        )

    def forward(self, inputs: Mapping[str, Tensor], reward_id: int) -> Tensor:
        """Mean and second output of each row, (B, 2) float32."""
        ids = inputs["input_ids"]
        embeds = self.model.get_input_embeddings()(ids)
        features = self.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
        images = torch.cat(tuple(features.pooler_output)).to(embeds.dtype)
        is_image = (ids == self.model.config.image_token_id)[..., None].expand_as(embeds)
        # Tokens of images stand one after another, as text does: the published model hands over
        # no ids, and without them transformers knows of no image's rows and columns.
        positions = torch.arange(ids.shape[1], device=ids.device).expand(3, *ids.shape)
        hidden = self.model.language_model(
            inputs_embeds=embeds.masked_scatter(is_image, images),
            attention_mask=inputs["attention_mask"],
            position_ids=positions,
        ).last_hidden_state
        rewards: Tensor = self.head(hidden[ids == reward_id].float())
        return rewards


class RewardModel:
    """The published checkpoint; ``WeightsError`` where it, or its base, does not fit."""

    def __init__(
        self, checkpoint: Path, base: Path, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        try:
            config = Qwen2VLConfig.from_pretrained(base, local_files_only=True)
            self._processor = AutoProcessor.from_pretrained(base, local_files_only=True)
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"base={base} has no configuration and processor of Qwen2-VL ({first_line(error)})"
            ) from error
        tokenizer = self._processor.tokenizer
        tokenizer.add_special_tokens({"additional_special_tokens": [REWARD_TOKEN]})
        self._reward_id = tokenizer.convert_tokens_to_ids(REWARD_TOKEN)
        # The checkpoint has as many embeddings as its tokenizer has tokens, the base a few spare.
        _text(config).vocab_size = len(tokenizer)
        with no_init_weights():
            network = RewardNetwork(config, dtype)
        load_strictly(network, placed(load_tensors(checkpoint)), checkpoint)
        self._device = device
        self._network = network.eval().requires_grad_(requires_grad=False).to(device)
        described = {path for pattern in HPSV3_BASE_FILES for path in base.glob(pattern)}
        self.weights_hash = combined_hash([checkpoint, *described])

    @torch.inference_mode()
    def rewards(
        self, texts: Sequence[str], images: Sequence[Image.Image]
    ) -> list[tuple[float, float]]:
        """Mean and second output of each image under its instruction."""
        pairs = [(text, resized(image)) for text, image in zip(texts, images, strict=True)]
        inputs = chat_inputs(self._processor, pairs, side="right").to(self._device)
        outputs = self._network(inputs, self._reward_id).tolist()
        return [(mean, second) for mean, second in outputs]


def _text(config: Qwen2VLConfig) -> Qwen2VLTextConfig:
    return cast(Qwen2VLTextConfig, config.text_config)


def placed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's entries under our names; the language head, which nothing asks, left out."""
    names = {name: _place(name) for name in state if not name.startswith("lm_head.")}
    return {names[name]: tensor for name, tensor in state.items() if name in names}


def _place(name: str) -> str:
    for old, new in _PLACES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def resized(image: Image.Image) -> Image.Image:
    """An RGB image of about 448 x 448 pixels, its ratio kept, sides multiples of 28."""
    height, width = smart_resize(
        image.height, image.width, factor=PATCH, min_pixels=NUM_PIXELS, max_pixels=NUM_PIXELS
    )
    return image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
