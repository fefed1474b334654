"""A vision-language model that runs here, of any of transformers' classes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    BatchFeature,
    ProcessorMixin,
)

from evaluators.vlm import VLM_FILES
from evaluators.vlm.questions import Answer, Question
from evaluators.weights import WeightsError, combined_hash, first_line


class LocalAnswerer:
    """An ``Answerer`` by the probabilities of the first token that the model would say.

    ``WeightsError`` unless the folder holds a whole model with its processor.
    """

    def __init__(
        self, directory: Path, *, dtype: torch.dtype, device: torch.device, batch_size: int
    ) -> None:
        self._model, self._processor = _loaded(directory, dtype)
        self._model.to(device)
        self._device, self._batch_size = device, batch_size
        self._which = last_alone(self._model.forward, device)
        self.weights_hash = model_hash(directory)

    @torch.inference_mode()
    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """One answer a question; equal whatever else is asked beside it."""
        answers: list[Answer] = []
        for start in range(0, len(questions), self._batch_size):
            batch = questions[start : start + self._batch_size]
            probabilities = self._first_token(batch)
            for row, question in zip(probabilities, batch, strict=True):
                answers.append(Answer(float(row[self._tokens(question.answers)].sum())))
        return answers

    def _first_token(self, questions: Sequence[Question]) -> Tensor:
        """How probable each token is as the first of the answer, (B, V) float32."""
        inputs = chat_inputs(
            self._processor, [(question.text, question.image) for question in questions]
        ).to(self._device)
        logits: Tensor = self._model(**inputs, **self._which).logits
        return logits[:, -1].float().softmax(-1)

    def _tokens(self, answers: Sequence[str]) -> list[int]:
        """The first tokens of answers, each once: two forms may begin alike."""
        encode = self._processor.tokenizer.encode
        return sorted({encode(text, add_special_tokens=False)[0] for text in answers})


def last_alone(forward: Callable[..., object], device: torch.device) -> dict[str, int]:
    """What has a model compute the logits of the last token alone, where that saves memory."""
    # Of all tokens, an image's among them, they take gigabytes of a GPU. On a CPU the product of
    # one row has other last bits than a row of the product of all.
    is_known = "logits_to_keep" in inspect.signature(forward).parameters
    return {"logits_to_keep": 1} if is_known and device.type == "cuda" else {}


def chat_inputs(
    processor: ProcessorMixin, messages: Sequence[tuple[str, object]], side: str = "left"
) -> BatchFeature:
    """What a model takes of (text, image) pairs, each a user's message, padded on one side."""
    processor.tokenizer.padding_side = side
    # transformers' own annotations know neither images in messages nor what they become.
    conversations: Any = [
        [
            {
                "role": "user",
                "content": [{"type": "image", "image": image}, {"type": "text", "text": text}],
            }
        ]
        for text, image in messages
    ]
    inputs = processor.apply_chat_template(
        conversations, tokenize=True, add_generation_prompt=True, return_dict=True,
        return_tensors="pt", processor_kwargs={"padding": True},
    )  # fmt: skip
    return cast(BatchFeature, inputs)


def model_hash(directory: Path) -> str:
    """The sha256 of a model's files."""
    paths = {path for pattern in VLM_FILES for path in directory.glob(pattern)}
    return combined_hash(paths)


def _loaded(directory: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    try:
        model, report = cast(
            "tuple[Any, dict[str, list[object]]]",
            AutoModelForImageTextToText.from_pretrained(
                directory, dtype=dtype, local_files_only=True, output_loading_info=True
            ),
        )
        processor = AutoProcessor.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError, UnpicklingError) as error:
        raise WeightsError(
            f"weights {directory}: no vision-language model that transformers loads "
            f"({first_line(error)})"
        ) from error
    # transformers fills what is missing with random values and goes on.
    faults = [*report["missing_keys"], *report["mismatched_keys"]]
    if faults:
        raise WeightsError(
            f"weights {directory} do not fit their config.json: {faults[0]} "
            f"({len(faults)} such entries)"
        )
    if getattr(processor, "chat_template", None) is None:
        raise WeightsError(f"weights {directory} have no chat template: use an instructed model")
    return model.eval().requires_grad_(requires_grad=False), processor
