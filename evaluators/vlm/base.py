"""What judges by a vision-language model share: who answers, and one score of several answers."""

from __future__ import annotations

import abc
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evaluators.base import ADDRESS, SERVER, Canary, Evaluator, Sample, Score, check_settings
from evaluators.canaries import shape_canaries
from evaluators.devices import check_dtype, torch_device, torch_dtype
from evaluators.vlm import QWEN3_VL, VLM_FILES
from evaluators.vlm.questions import Answerer, Question
from evaluators.vlm.server import (
    ChatServer,
    RequestSettings,
    ServerAnswerer,
    check_url,
    is_listening,
)
from evaluators.weights import resolve_directory


@dataclass(frozen=True, kw_only=True)
class QuestionsConfig(RequestSettings):
    """A judge that asks about an image; a subclass says what, and what the answers are worth.

    Attributes:
        weights: Hub id or local folder of any vision-language model that transformers'
            ``AutoModelForImageTextToText`` loads, with a chat template.
        dtype: ``float32``, ``bfloat16`` or ``float16``, of its weights and arithmetic.
        device: ``auto`` (the first GPU, else the CPU), or a torch device.
        batch_size: Questions at a time.
        server: URL, up to and with ``/v1``, of an OpenAI-compatible server with ``logprobs`` that
            answers in place of ``weights``; empty: none.
        model: The name under which it offers the model; of a server alone.
    """

    packages = ("torch", "transformers", "requests")
    published = (QWEN3_VL,)
    code = ("evaluators.vlm.base", "evaluators.vlm.local", "evaluators.vlm.server")

    weights: str = QWEN3_VL.repo
    # As GenEval 2 runs it; its weights are stored so.
    dtype: str = "bfloat16"
    device: str = field(default="auto", metadata=ADDRESS)
    batch_size: int = field(default=8, metadata=ADDRESS)
    server: str = field(default="", metadata=ADDRESS)
    model: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(self, texts=("weights",), counts=("batch_size",))
        check_dtype(self.dtype)
        if self.server:
            check_url("server", self.server)
            if not self.model:
                raise ValueError(f"model is empty: name a model that server={self.server} serves")
        elif self.model:
            raise ValueError(
                f"model={self.model!r}: is what a server calls it, and server is empty; weights= "
                "takes a model that runs here"
            )

    @property
    def runs_on(self) -> str:
        """Its server, or its device."""
        return SERVER if self.server else self.device

    def weight_files(self) -> Mapping[str, Sequence[str]]:
        """The model's, where it runs here."""
        return {} if self.server else {"weights": VLM_FILES}

    def settings(self) -> dict[str, object]:
        """What is asked, and which model: by name where a server answers."""
        unused = ("weights", "dtype") if self.server else ("model",)
        return {key: value for key, value in super().settings().items() if key not in unused}

    def missing(self) -> tuple[str, str]:
        """The server, where one is set and nothing answers."""
        if self.server and not is_listening(self.server):
            return f"a server at {self.server}", f"vllm serve {self.model}"
        return "", ""

    def build(self) -> QuestionsEvaluator:
        """The evaluator; loads its weights when it is first used."""
        return QuestionsEvaluator(self)

    @abc.abstractmethod
    def questions(self, sample: Sample) -> list[Question]:
        """What is asked about an image; at least one."""

    @abc.abstractmethod
    def judged(self, sample: Sample, probabilities: Sequence[float]) -> Score:
        """The score by the answers' probabilities, in the questions' order."""

    def aggregate(self, scores: Sequence[Score]) -> dict[str, float]:  # noqa: ARG002
        """Further summary numbers of images that are scored."""
        return {}

    def canaries(self) -> Sequence[Canary]:
        """Drawn shapes under a prompt that fits and one that does not."""
        return shape_canaries(self.kind)


class QuestionsEvaluator(Evaluator):
    """Asks about every image and scores its answers; an ``answerer`` takes the model's place."""

    config: QuestionsConfig

    def __init__(self, config: QuestionsConfig, answerer: Answerer | None = None) -> None:
        self.config = config
        self._given = answerer

    @functools.cached_property
    def _answerer(self) -> Answerer:
        config = self.config
        if self._given is not None:
            return self._given
        if config.server:
            server = ChatServer(config, url=config.server, model=config.model, key="server")
            return ServerAnswerer(server)
        from evaluators.vlm.local import LocalAnswerer

        return LocalAnswerer(
            resolve_directory(config.weights, VLM_FILES),
            dtype=torch_dtype(config.dtype),
            device=torch_device(config.device),
            batch_size=config.batch_size,
        )

    @property
    def weights_hash(self) -> str:
        """The sha256 of the model's files, or its name where it is served."""
        return self._answerer.weights_hash

    def canaries(self) -> Sequence[Canary]:
        """Its configuration's."""
        return self.config.canaries()

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """One score a sample, in order; unscored where a question of it got no answer."""
        asked = [self.config.questions(sample) for sample in samples]
        # Questions of all images share batches.
        answers = iter(self._answerer.answer([one for per_image in asked for one in per_image]))
        scores = []
        for sample, questions in zip(samples, asked, strict=True):
            own = list(itertools.islice(answers, len(questions)))
            reasons = [answer.reason for answer in own if answer.reason is not None]
            values = [answer.probability for answer in own]
            if not reasons and not all(map(math.isfinite, values)):
                reasons = [f"the model gave {values}; its dtype may be too narrow"]
            failed = Score.unscored(sample.sample_id, reasons[0]) if reasons else None
            scores.append(failed or self.config.judged(sample, values))
        return scores

    def aggregate(self, samples: Sequence[Sample], scores: Sequence[Score]) -> dict[str, float]:
        """The mean first, then what its configuration adds."""
        summary = super().aggregate(samples, scores)
        unscored = summary.pop("unscored")
        further = self.config.aggregate([score for score in scores if score.reason is None])
        return {**summary, **further, "unscored": unscored}
