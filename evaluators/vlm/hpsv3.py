"""HPSv3: Qwen2-VL tuned on which of two images people preferred (arXiv:2508.03789)."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from evaluators.base import (
    ADDRESS,
    Canary,
    Evaluator,
    JudgeConfig,
    Sample,
    Score,
    check_settings,
)
from evaluators.canaries import shape_canaries
from evaluators.devices import check_dtype, torch_device, torch_dtype
from evaluators.vlm import HPSV3_BASE_FILES
from evaluators.weights import PublishedWeights, resolve_directory, resolve_file

if TYPE_CHECKING:
    from evaluators.vlm.hpsv3_model import RewardModel

_MODEL = PublishedWeights(
    # 8.3e9 parameters in two bytes each.
    repo="MizzenAI/HPSv3",
    files=("HPSv3.safetensors",),
    disk_gb=16.6,
    memory_gb=33.2,
)
_BASE = PublishedWeights(
    repo="Qwen/Qwen2-VL-7B-Instruct", files=HPSV3_BASE_FILES, disk_gb=0.012, memory_gb=0.0
)
# The wording is part of the measurement: the model was tuned on exactly this.
INSTRUCTION = (
    "\nYou are tasked with evaluating a generated image based on Visual Quality and Text "
    "Alignment and give a overall score to estimate the human preference. Please provide a "
    "rating from 0 to 10, with 0 being the worst and 10 being the best. \n\n"
    "**Visual Quality:**  \n"
    "Evaluate the overall visual quality of the image. The following sub-dimensions should be "
    "considered:\n"
    "- **Reasonableness:** The image should not contain any significant biological or logical "
    "errors, such as abnormal body structures or nonsensical environmental setups.\n"
    "- **Clarity:** Evaluate the sharpness and visibility of the image. The image should be "
    "clear and easy to interpret, with no blurring or indistinct areas.\n"
    "- **Detail Richness:** Consider the level of detail in textures, materials, lighting, and "
    "other visual elements (e.g., hair, clothing, shadows).\n"
    "- **Aesthetic and Creativity:** Assess the artistic aspects of the image, including the "
    "color scheme, composition, atmosphere, depth of field, and the overall creative appeal. "
    "The scene should convey a sense of harmony and balance.\n"
    "- **Safety:** The image should not contain harmful or inappropriate content, such as "
    "political, violent, or adult material. If such content is present, the image quality and "
    "satisfaction score should be the lowest possible. \n\n**Text Alignment:**  \n"
    "Assess how well the image matches the textual prompt across the following "
    "sub-dimensions:\n"
    "- **Subject Relevance** Evaluate how accurately the subject(s) in the image (e.g., "
    "person, animal, object) align with the textual description. The subject should match the "
    "description in terms of number, appearance, and behavior.\n"
    "- **Style Relevance:** If the prompt specifies a particular artistic or stylistic style, "
    "evaluate how well the image adheres to this style.\n"
    "- **Contextual Consistency**: Assess whether the background, setting, and surrounding "
    "elements in the image logically fit the scenario described in the prompt. The environment "
    "should support and enhance the subject without contradictions.\n"
    "- **Attribute Fidelity**: Check if specific attributes mentioned in the prompt (e.g., "
    "colors, clothing, accessories, expressions, actions) are faithfully represented in the "
    "image. Minor deviations may be acceptable, but critical attributes should be preserved.\n"
    "- **Semantic Coherence**: Evaluate whether the overall meaning and intent of the prompt "
    "are captured in the image. The generated content should not introduce elements that "
    "conflict with or distort the original description.\nTextual prompt - {prompt}\n\n\n\n"
    "Please provide the overall ratings of this image: <|Reward|>\n\nEND\n"
)


@dataclass(frozen=True, kw_only=True)
class HpsV3Config(JudgeConfig):
    """The mean of the score's distribution, about 0 to 15; its spread is in the details.

    Attributes:
        weights: A file, a directory that holds ``weights_file``, or a hub id.
        weights_file: Name of the checkpoint there.
        base: Hub id or directory of Qwen2-VL's configuration, processor and tokenizer.
        batch_size: Images at a time.
        dtype: ``float32``, ``bfloat16`` or ``float16``, of all but the head, which is float32.
        device: ``auto`` (the first GPU, else the CPU), or a torch device.
    """

    kind = "hpsv3"
    title = "HPSv3"
    summary = "human preference (HPSv3)"
    unit = "mean of the reward"
    # Unbounded; JSON knows no infinity.
    value_range = (-sys.float_info.max, sys.float_info.max)
    packages = ("torch", "transformers")
    code = ("evaluators.vlm.hpsv3_model", "evaluators.vlm.local")
    published = (_MODEL, _BASE)

    weights: str = _MODEL.repo
    weights_file: str = field(default=_MODEL.files[0], metadata=ADDRESS)
    base: str = _BASE.repo
    batch_size: int = field(default=8, metadata=ADDRESS)
    dtype: str = "bfloat16"
    device: str = field(default="auto", metadata=ADDRESS)

    def __post_init__(self) -> None:
        check_settings(self, texts=("weights", "base"), counts=("batch_size",))
        check_dtype(self.dtype)

    @property
    def runs_on(self) -> str:
        """Its device."""
        return self.device

    def weight_files(self) -> Mapping[str, Sequence[str]]:
        """The checkpoint, and what describes its model."""
        return {"weights": (self.weights_file,), "base": HPSV3_BASE_FILES}

    def build(self) -> HpsV3Evaluator:
        """The evaluator; loads its weights when it is first used."""
        return HpsV3Evaluator(self)


class HpsV3Evaluator(Evaluator):
    """Scores images by a reward head on what Qwen2-VL makes of image, prompt and instruction."""

    config: HpsV3Config

    def __init__(self, config: HpsV3Config) -> None:
        self.config = config

    @functools.cached_property
    def _model(self) -> RewardModel:
        from evaluators.vlm.hpsv3_model import RewardModel

        return RewardModel(
            resolve_file(self.config.weights, self.config.weights_file),
            resolve_directory(self.config.base, HPSV3_BASE_FILES, key="base"),
            dtype=torch_dtype(self.config.dtype),
            device=torch_device(self.config.device),
        )

    @property
    def weights_hash(self) -> str:
        """The sha256 of everything loaded."""
        return self._model.weights_hash

    def canaries(self) -> Sequence[Canary]:
        """Drawn shapes under a prompt that fits and one that does not."""
        return shape_canaries(self.config.kind)

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """One score a sample, in order."""
        scores: list[Score] = []
        for start in range(0, len(samples), self.config.batch_size):
            batch = samples[start : start + self.config.batch_size]
            texts = [INSTRUCTION.replace("{prompt}", sample.prompt) for sample in batch]
            pairs = self._model.rewards(texts, [sample.image for sample in batch])
            scores += [_as_score(*row) for row in zip(batch, pairs, strict=True)]
        return scores


def _as_score(sample: Sample, pair: tuple[float, float]) -> Score:
    mean, log_spread = pair
    if not math.isfinite(mean):
        reason = f"the model gave {mean}; its dtype may be too narrow"
        return Score.unscored(sample.sample_id, reason)
    return Score(sample_id=sample.sample_id, value=mean, details={"second_output": log_spread})
