"""UnifiedReward: a vision-language model behind an OpenAI-compatible server (arXiv:2503.05236)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from PIL import Image

from evaluators.base import ADDRESS, SERVER, Canary, Evaluator, Sample, Score, check_settings
from evaluators.canaries import shape_canaries
from evaluators.vlm.server import (
    ChatServer,
    NoAnswerError,
    RequestSettings,
    check_url,
    is_listening,
)

# The wording is part of the measurement: Flow-GRPO's evaluation asks exactly this.
QUESTION = (
    "<image>\nYou are given a text caption and a generated image based on that caption. Your task "
    "is to evaluate this image based on two key criteria:\n1. Alignment with the Caption: Assess "
    "how well this image aligns with the provided caption. Consider the accuracy of depicted "
    "objects, their relationships, and attributes as described in the caption.\n2. Overall Image "
    "Quality: Examine the visual quality of this image, including clarity, detail preservation, "
    "color accuracy, and overall aesthetic appeal.\nBased on the above criteria, assign a score "
    "from 1 to 5 after 'Final Score:'.\nYour task is provided as follows:\nText Caption: [{prompt}]"
)
# "45" and "5.5" are no scores from 1 to 5; the published parser reads them as 4 and 5.5.
_ANSWER = re.compile(r"Final Score:\s*([1-5](?:\.\d+)?)(?![\d.]*\d)")
_BEST = 5.0
_SERVER = (
    "python -m sglang.launch_server --model-path CodeGoat24/UnifiedReward-7b-v1.5 "
    "--served-model-name UnifiedReward-7b-v1.5 --port 8080"
)


def parse_score(answer: str) -> float | None:
    """The score after ``Final Score:``, 1..5."""
    match = _ANSWER.search(answer)
    value = float(match[1]) if match else None
    return value if value is not None and value <= _BEST else None


@dataclass(frozen=True, kw_only=True)
class UnifiedRewardConfig(RequestSettings):
    """The model's 1..5 score, divided by 5, by an OpenAI-compatible server.

    Attributes:
        base_url: Up to and with ``/v1``.
        model: The name under which the server offers it.
        image_size: Side of the square the image is resized to, pixels (Flow-GRPO: 512).
    """

    kind = "unifiedreward"
    title = "UnifiedReward"
    summary = "rating by a vision-language model behind a server"
    unit = "score / 5"
    value_range = (0.2, 1.0)
    packages = ("requests",)
    code = ("evaluators.vlm.server",)

    base_url: str = field(default="http://127.0.0.1:8080/v1", metadata=ADDRESS)
    model: str = "UnifiedReward-7b-v1.5"
    image_size: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        check_url("base_url", self.base_url)
        check_settings(self, texts=("model",), counts=("image_size",))

    @property
    def runs_on(self) -> str:
        """Its server."""
        return SERVER

    def build(self) -> UnifiedRewardEvaluator:
        """The evaluator; nothing is asked before it is needed."""
        return UnifiedRewardEvaluator(self)

    def missing(self) -> tuple[str, str]:
        """The server, where nothing answers."""
        if is_listening(self.base_url):
            return "", ""
        return f"a server at {self.base_url}", _SERVER


class UnifiedRewardEvaluator(Evaluator):
    """Asks the server about every image, several at once; ``sleep`` waits between tries."""

    config: UnifiedRewardConfig

    def __init__(
        self, config: UnifiedRewardConfig, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.config = config
        self._server = ChatServer(
            config, url=config.base_url, model=config.model, key="base_url", sleep=sleep
        )

    @property
    def weights_hash(self) -> str:
        """The model's name: a server does not show its files."""
        return f"served:{self.config.model}"

    def canaries(self) -> Sequence[Canary]:
        """Drawn shapes under a prompt that fits and one that does not."""
        return shape_canaries(self.config.kind)

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """One score a sample; ``EvaluatorError`` where the server refuses requests or is silent."""
        self._server.check_model()
        return self._server.map(self._scored, samples)

    def _scored(self, sample: Sample) -> Score:
        size = (self.config.image_size, self.config.image_size)
        image = sample.image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        try:
            choice = self._server.complete(QUESTION.format(prompt=sample.prompt), image)
        except NoAnswerError as error:
            return Score.unscored(sample.sample_id, str(error))
        return _as_score(sample, str(choice["message"]["content"]))


def _as_score(sample: Sample, answer: str) -> Score:
    value = parse_score(answer)
    if value is None:
        return Score.unscored(sample.sample_id, f"no 'Final Score: 1..5' in {answer[:200]!r}")
    return Score(sample_id=sample.sample_id, value=value / _BEST, details={"answer": answer[:500]})
