"""UnifiedReward: a vision-language model behind an OpenAI-compatible server (arXiv:2503.05236)."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import requests
from PIL import Image

from evaluators.base import (
    ADDRESS,
    SERVER,
    Canary,
    Evaluator,
    JudgeConfig,
    Sample,
    Score,
    check_settings,
)
from evaluators.preference.base import shape_canaries
from evaluators.weights import EvaluatorError

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
# Answers that say the request itself is wrong: every further image would fail alike.
_REFUSALS = (401, 403, 404, 405)
_PASSING = (408, 429, 500, 502, 503, 504)
_LONGEST_WAIT = 60.0
_SERVER = (
    "python -m sglang.launch_server --model-path CodeGoat24/UnifiedReward-7b-v1.5 "
    "--served-model-name UnifiedReward-7b-v1.5 --port 8080"
)
_SERVER_WAIT_SECONDS = 0.5
#: To be connected, at most; ``timeout_seconds`` is for the answer of a model that is at work.
_CONNECT_SECONDS = 10.0


class _PassingError(Exception):
    """A failure that a further try may cure, and the wait that the server asked for, seconds."""

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


class _SilenceError(_PassingError):
    """No answer at all, not even that the server is busy."""


def parse_score(answer: str) -> float | None:
    """The score after ``Final Score:``, 1..5."""
    match = _ANSWER.search(answer)
    value = float(match[1]) if match else None
    return value if value is not None and value <= _BEST else None


@dataclass(frozen=True, kw_only=True)
class UnifiedRewardConfig(JudgeConfig):
    """The model's 1..5 score, divided by 5, by an OpenAI-compatible server.

    Attributes:
        base_url: Up to and with ``/v1``.
        model: The name under which the server offers it.
        api_key_env: Environment variable that holds the key; unset sends none.
        concurrency: Requests under way at once.
        timeout_seconds: For one request. A server that answers none of the tries of a request, nor
            any other meanwhile, ends the judging.
        max_retries: Further tries after a failed one that may pass (no answer, 408, 429, 5xx).
        backoff_seconds: Wait before the first further try; doubles each time, at most 60.
        image_size: Side of the square the image is resized to, pixels (Flow-GRPO: 512).
    """

    kind = "unifiedreward"
    title = "UnifiedReward"
    summary = "rating by a vision-language model behind a server"
    unit = "score / 5"
    value_range = (0.2, 1.0)
    packages = ("requests",)

    base_url: str = field(default="http://127.0.0.1:8080/v1", metadata=ADDRESS)
    model: str = "UnifiedReward-7b-v1.5"
    api_key_env: str = field(default="OPENAI_API_KEY", metadata=ADDRESS)
    concurrency: int = field(default=8, metadata=ADDRESS)
    timeout_seconds: float = field(default=120.0, metadata=ADDRESS)
    max_retries: int = field(default=5, metadata=ADDRESS)
    backoff_seconds: float = field(default=1.0, metadata=ADDRESS)
    image_size: int = 512

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url={self.base_url!r}: must start with http:// or https://")
        check_settings(self, counts=("concurrency", "image_size"))
        if self.timeout_seconds <= 0:
            raise ValueError(f"timeout_seconds={self.timeout_seconds}: must be above 0")
        for name in ("max_retries", "backoff_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must not be negative")

    @property
    def runs_on(self) -> str:
        """Its server."""
        return SERVER

    def build(self) -> UnifiedRewardEvaluator:
        """The evaluator; nothing is asked before it is needed."""
        return UnifiedRewardEvaluator(self)

    def missing(self) -> tuple[str, str]:
        """The server, where nothing answers."""
        parts = urlsplit(self.base_url)
        address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        try:
            with socket.create_connection(address, timeout=_SERVER_WAIT_SECONDS):
                return "", ""
        except OSError:
            return f"a server at {self.base_url}", _SERVER


class UnifiedRewardEvaluator(Evaluator):
    """Asks the server about every image, several at once; ``sleep`` waits between tries."""

    config: UnifiedRewardConfig

    def __init__(
        self, config: UnifiedRewardConfig, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.config = config
        self._sleep = sleep
        self._last_answer = -math.inf

    @property
    def weights_hash(self) -> str:
        """The model's name: a server does not show its files."""
        return f"served:{self.config.model}"

    def canaries(self) -> Sequence[Canary]:
        """Drawn shapes under a prompt that fits and one that does not."""
        return shape_canaries(self.config.kind)

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """One score a sample; ``EvaluatorError`` where the server refuses requests or is silent."""
        # Where one is refused, map gives up those that are not yet under way.
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            return list(pool.map(self._scored, samples))

    def _scored(self, sample: Sample) -> Score:
        body, start = self._body(sample), time.monotonic()
        for attempt in range(self.config.max_retries + 1):
            try:
                answer = self._ask(body)
            except _PassingError as err:
                failure, wait = err, err.wait
            else:
                return _as_score(sample, answer)
            if attempt < self.config.max_retries:
                doubled = self.config.backoff_seconds * 2**attempt
                self._sleep(min(_LONGEST_WAIT, doubled if wait is None else wait))
        tries = self.config.max_retries + 1
        # Of a server that is gone every image would be unscored for good, hours later.
        if isinstance(failure, _SilenceError) and self._last_answer < start:
            raise EvaluatorError(
                f"unifiedreward: {self.config.base_url} is silent in {tries} tries ({failure}); "
                f"start the server, or raise timeout_seconds={self.config.timeout_seconds:g} or "
                f"max_retries={self.config.max_retries} of judge.unifiedreward"
            )
        return Score.unscored(sample.sample_id, f"no answer in {tries} tries: {failure}")

    def _body(self, sample: Sample) -> dict[str, object]:
        stream = io.BytesIO()
        size = (self.config.image_size, self.config.image_size)
        sample.image.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(stream, "PNG")
        url = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
        image = {"type": "image_url", "image_url": {"url": url}}
        text = {"type": "text", "text": QUESTION.format(prompt=sample.prompt)}
        messages = [{"role": "user", "content": [image, text]}]
        # Temperature 0: the same image and server give the same number again.
        return {"model": self.config.model, "messages": messages, "temperature": 0}

    def _ask(self, body: Mapping[str, object]) -> str:
        """One request; the model's answer."""
        key = os.environ.get(self.config.api_key_env)
        url = self.config.base_url.rstrip("/") + "/chat/completions"
        headers = {"Content-Type": "application/json"}
        # A server that asks for no key may refuse an empty one.
        if key:
            headers["Authorization"] = f"Bearer {key}"
        seconds = self.config.timeout_seconds
        waits = (min(_CONNECT_SECONDS, seconds), seconds)
        try:
            response = requests.post(url, data=json.dumps(body), headers=headers, timeout=waits)
        except (requests.ConnectionError, requests.Timeout) as err:
            raise _SilenceError(f"{type(err).__name__} at {url}") from err
        self._last_answer = time.monotonic()
        if response.status_code in _REFUSALS:
            raise EvaluatorError(
                f"unifiedreward: {url} answers {response.status_code} ({response.text[:120]!r}); "
                f"check base_url, model={self.config.model!r} and ${self.config.api_key_env}"
            )
        if response.status_code in _PASSING:
            wait = response.headers.get("Retry-After", "")
            pause = float(wait) if wait.isdecimal() else None
            raise _PassingError(f"status {response.status_code}", pause)
        return _answer(response)


def _answer(response: requests.Response) -> str:
    """The text of a chat completion, or what came instead, for the reason of the unscored."""
    if response.status_code != requests.codes.ok:
        return f"status {response.status_code}: {response.text}"
    try:
        return str(response.json()["choices"][0]["message"]["content"])
    except (ValueError, KeyError, IndexError, TypeError):
        return f"no chat completion: {response.text}"


def _as_score(sample: Sample, answer: str) -> Score:
    value = parse_score(answer)
    if value is None:
        return Score.unscored(sample.sample_id, f"no 'Final Score: 1..5' in {answer[:200]!r}")
    return Score(sample_id=sample.sample_id, value=value / _BEST, details={"answer": answer[:500]})
