"""A client of OpenAI-compatible servers: patient with a busy one, short with a wrong one."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from PIL import Image
from requests.exceptions import ChunkedEncodingError, ContentDecodingError

from evaluators.base import ADDRESS, NO_ANSWER, JudgeConfig, check_settings
from evaluators.vlm.questions import Answer, Question
from evaluators.weights import EvaluatorError

S = TypeVar("S")
T = TypeVar("T")
# Answers that say the request itself is wrong: every further image would fail alike.
_REFUSALS = (401, 403, 404, 405)
_PASSING = (408, 429, 500, 502, 503, 504)
_LONGEST_WAIT = 60.0
_LISTING_SECONDS = 10.0
_SERVER_WAIT_SECONDS = 0.5
#: To be connected, at most; ``timeout_seconds`` is for the answer of a model that is at work.
_CONNECT_SECONDS = 10.0
#: Most that OpenAI's interface gives of the tokens an answer may begin with.
_NUM_TOKENS = 20


class NoAnswerError(Exception):
    """An image that got no answer; the message is the reason."""


class _PassingError(Exception):
    """A failure that a further try may cure, and the wait that the server asked for, seconds."""

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


class _SilenceError(_PassingError):
    """No answer at all, not even that the server is busy."""


@dataclass(frozen=True, kw_only=True)
class RequestSettings(JudgeConfig):
    """How a judge behind a server is asked; none of it changes a number.

    Attributes:
        api_key_env: Environment variable that holds the key; unset sends none.
        concurrency: Requests under way at once.
        timeout_seconds: For one request. A server that answers none of the tries of a request, nor
            any other meanwhile, ends the judging.
        max_retries: Further tries after a failed one that may pass (no answer, 408, 429, 5xx).
        backoff_seconds: Wait before the first further try; doubles each time, at most 60.
    """

    api_key_env: str = field(default="OPENAI_API_KEY", metadata=ADDRESS)
    concurrency: int = field(default=8, metadata=ADDRESS)
    timeout_seconds: float = field(default=120.0, metadata=ADDRESS)
    max_retries: int = field(default=5, metadata=ADDRESS)
    backoff_seconds: float = field(default=1.0, metadata=ADDRESS)

    def __post_init__(self) -> None:
        check_settings(self, counts=("concurrency",))
        if self.timeout_seconds <= 0:
            raise ValueError(f"timeout_seconds={self.timeout_seconds}: must be above 0")
        for name in ("max_retries", "backoff_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must not be negative")


def check_url(name: str, url: str) -> None:
    """Refuse, by a ``ValueError``, what is no address of a server."""
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{name}={url!r}: must start with http:// or https://")
    try:
        parts = urlsplit(url)
        # Asked for its ValueError: of a port that is none.
        is_address = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise ValueError(f"{name}={url!r}: is no address; write http://HOST:PORT/v1")


def is_listening(url: str) -> bool:
    """Whether anything accepts connections there."""
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    try:
        with socket.create_connection(address, timeout=_SERVER_WAIT_SECONDS):
            return True
    except OSError:
        return False


class ChatServer:
    """Asks one model of a server; ``sleep`` waits between tries.

    ``key`` names the setting of ``url`` in messages.
    """

    def __init__(
        self,
        config: RequestSettings,
        *,
        url: str,
        model: str,
        key: str,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.config, self.url, self.model, self.key = config, url.rstrip("/"), model, key
        self._sleep = sleep
        self._last_answer = -math.inf
        self._is_checked = False

    def check_model(self) -> None:
        """``EvaluatorError`` where the server lists its models, and this one is none of them."""
        if self._is_checked:
            return
        self._is_checked = True
        try:
            response = requests.get(
                f"{self.url}/models", headers=self._headers(), timeout=_LISTING_SECONDS
            )
            names = [str(entry["id"]) for entry in response.json()["data"]]
        # Not every server has a list; a request to one without the model is refused anyway.
        except (requests.RequestException, ValueError, KeyError, TypeError):
            return
        if names and self.model not in names:
            raise EvaluatorError(
                f"{self.config.kind}: {self.url} serves {', '.join(names)[:120]}, not "
                f"model={self.model!r}; set judge.{self.config.kind}.model"
            )

    def map(self, ask: Callable[[S], T], items: Sequence[S]) -> list[T]:
        """Results in order, several at once; the first ``EvaluatorError`` ends it."""
        # Where one is refused, map gives up those that are not yet under way.
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            return list(pool.map(ask, items))

    def complete(self, text: str, image: Image.Image, **options: object) -> Mapping[str, Any]:
        """The first choice of a chat completion about an image, at temperature 0.

        ``NoAnswerError`` without one; ``EvaluatorError`` where the server refuses requests, or is
        silent.
        """
        content = [image_part(image), {"type": "text", "text": text}]
        messages = [{"role": "user", "content": content}]
        # Temperature 0: the same image and server give the same number again.
        body = {"model": self.model, "messages": messages, "temperature": 0, **options}
        return _choice(self._tried(body))

    def _tried(self, body: Mapping[str, object]) -> requests.Response:
        start, config = time.monotonic(), self.config
        for attempt in range(config.max_retries + 1):
            try:
                return self._asked(body)
            except _PassingError as err:
                failure, wait = err, err.wait
            if attempt < config.max_retries:
                doubled = config.backoff_seconds * 2**attempt
                self._sleep(min(_LONGEST_WAIT, doubled if wait is None else wait))
        tries = config.max_retries + 1
        # Of a server that is gone every image would be unscored for good, hours later.
        if isinstance(failure, _SilenceError) and self._last_answer < start:
            raise EvaluatorError(
                f"{config.kind}: {self.url} is silent in {tries} tries ({failure}); "
                f"start the server, or raise timeout_seconds={config.timeout_seconds:g} or "
                f"max_retries={config.max_retries} of judge.{config.kind}"
            )
        raise NoAnswerError(f"{NO_ANSWER} in {tries} tries: {failure}")

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self.config.api_key_env)
        # A server that asks for no key may refuse an empty one.
        authorization = {"Authorization": f"Bearer {key}"} if key else {}
        return {"Content-Type": "application/json", **authorization}

    def _asked(self, body: Mapping[str, object]) -> requests.Response:
        """One request."""
        url, seconds = f"{self.url}/chat/completions", self.config.timeout_seconds
        waits = (min(_CONNECT_SECONDS, seconds), seconds)
        try:
            response = requests.post(
                url, data=json.dumps(body), headers=self._headers(), timeout=waits
            )
        except (requests.ConnectionError, requests.Timeout) as err:
            raise _SilenceError(f"{type(err).__name__} at {url}") from err
        except (ChunkedEncodingError, ContentDecodingError) as err:
            # It did answer, and broke off.
            raise _PassingError(f"{type(err).__name__} at {url}") from err
        except requests.RequestException as err:
            raise EvaluatorError(
                f"{self.config.kind}: {url} cannot be asked ({type(err).__name__}); check "
                f"{self.key}"
            ) from err
        self._last_answer = time.monotonic()
        if response.status_code in _REFUSALS:
            raise EvaluatorError(
                f"{self.config.kind}: {url} answers {response.status_code} "
                f"({response.text[:120]!r}); check {self.key}, model={self.model!r} and "
                f"${self.config.api_key_env}"
            )
        if response.status_code in _PASSING:
            wait = response.headers.get("Retry-After", "")
            pause = float(wait) if wait.isdecimal() else None
            raise _PassingError(f"status {response.status_code}", pause)
        return response


class ServerAnswerer:
    """An ``Answerer`` by the probabilities that a server gives of an answer's first token."""

    def __init__(self, server: ChatServer) -> None:
        self._server = server
        # A server does not show its files.
        self.weights_hash = f"served:{server.model}"

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """One answer a question; what is none of the 20 likeliest first tokens counts 0."""
        self._server.check_model()
        return self._server.map(self._answer, questions)

    def _answer(self, question: Question) -> Answer:
        try:
            choice = self._server.complete(
                question.text, question.image, max_tokens=1, logprobs=True, top_logprobs=_NUM_TOKENS
            )
            tokens = choice["logprobs"]["content"][0]["top_logprobs"]
            pairs = {str(entry["token"]): float(entry["logprob"]) for entry in tokens}
        except NoAnswerError as error:
            return Answer(math.nan, str(error))
        except (KeyError, IndexError, TypeError, ValueError):
            return Answer(math.nan, "the server gave no logprobs: start it with them allowed")
        return Answer(math.fsum(math.exp(v) for k, v in pairs.items() if k in question.answers))


def image_part(image: Image.Image) -> dict[str, object]:
    """An image as a part of a chat message."""
    stream = io.BytesIO()
    image.convert("RGB").save(stream, "PNG")
    url = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def _choice(response: requests.Response) -> Mapping[str, Any]:
    """The first choice of a chat completion; ``NoAnswerError`` with what came instead."""
    if response.status_code != requests.codes.ok:
        raise NoAnswerError(f"status {response.status_code}: {response.text[:200]}")
    try:
        choice: Mapping[str, Any] = response.json()["choices"][0]
        choice["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise NoAnswerError(f"no chat completion: {response.text[:200]}") from error
    return choice
