"""A CLIP, whichever of the two published directory layouts it comes in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from evaluators.clip import CLIP_FILES
from evaluators.clip.open_clip_models import WEIGHT_FILES, OpenClipParts, load_open_clip
from evaluators.devices import on_device
from evaluators.weights import WeightsError, combined_hash, first_line


class TransformersClipEncoder:
    """A directory in transformers' layout, as OpenAI's CLIP is published; loaded strictly.

    ``processor`` holds image processor and tokenizer where they are not beside the model.
    """

    def __init__(
        self,
        directory: Path,
        *,
        dtype: torch.dtype,
        device: torch.device,
        processor: Path | None = None,
    ) -> None:
        # Here and not above: 0.7 s that open_clip's models can do without.
        from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel, CLIPTextConfig

        source = processor or directory
        try:
            loaded = CLIPModel.from_pretrained(
                directory, dtype=dtype, local_files_only=True, output_loading_info=True
            )
            # PickScore and the aesthetic predictor were published on Pillow's resize of 8 bits.
            self._transform = CLIPImageProcessorPil.from_pretrained(source, local_files_only=True)
            self._tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
        except (OSError, ValueError, RuntimeError) as err:
            line = first_line(err)
            raise WeightsError(f"{directory} is no CLIP that transformers loads ({line})") from err
        model, report = cast(tuple[CLIPModel, dict[str, list[object]]], loaded)
        # transformers fills what is missing with random values and goes on.
        faults = [*report["missing_keys"], *report["mismatched_keys"]]
        if faults:
            raise WeightsError(
                f"weights {directory} do not fit their config.json: {faults[0]} "
                f"({len(faults)} such entries)"
            )
        self._max_tokens = cast(CLIPTextConfig, model.config.text_config).max_position_embeddings
        # from_pretrained leaves it in evaluation mode.
        self._model = torch.nn.Module.to(model.requires_grad_(False), device=device)

    @property
    def width(self) -> int:
        """Size D of an embedding."""
        return int(self._model.visual_projection.out_features)

    @property
    def side(self) -> int:
        """Pixels along a side of what the image tower takes."""
        return int(self._model.vision_model.config.image_size)

    @property
    def logit_scale(self) -> float:
        """The learned factor of the cosine, already exponentiated."""
        return float(self._model.logit_scale.float().exp())

    def preprocess(self, image: Image.Image) -> Tensor:
        """What the image tower takes, (3, S, S) float32."""
        return cast(Tensor, self._transform(images=image, return_tensors="pt")["pixel_values"][0])

    def images(self, pixels: Tensor) -> Tensor:
        """Unit image embeddings (B, D), float32, of preprocessed images (B, 3, S, S)."""
        model = self._model
        output = model.get_image_features(pixel_values=on_device(pixels, model.device, model.dtype))
        return normalize(output.pooler_output.float(), dim=-1)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit text embeddings (B, D), float32."""
        # A tokenizer need not know the model's length, beyond which there are no positions.
        tokens = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self._max_tokens,
            return_tensors="pt",
        )
        names = ("input_ids", "attention_mask")
        output = self._model.get_text_features(
            **{name: on_device(tokens[name], self._model.device) for name in names}
        )
        return normalize(output.pooler_output.float(), dim=-1)


ClipEncoder = OpenClipParts | TransformersClipEncoder


def load_clip(directory: Path, *, dtype: torch.dtype, device: torch.device) -> ClipEncoder:
    """Load a CLIP of either layout; a WeightsError where it is incomplete."""
    has_weights = any((directory / name).is_file() for name in WEIGHT_FILES)
    # Some repositories on the hub hold both; a directory of neither gets open_clip's message.
    if has_weights or not (directory / "config.json").is_file():
        return load_open_clip(directory, dtype=dtype, device=device)
    return TransformersClipEncoder(directory, dtype=dtype, device=device)


def clip_hash(directory: Path) -> str:
    """The sha256 of the files that make a CLIP."""
    return combined_hash(path for name in CLIP_FILES if (path := directory / name).is_file())


def paired_cosines(encoder: ClipEncoder, prompts: Sequence[str], pixels: Tensor) -> list[float]:
    """The cosine of each preprocessed image, (B, 3, S, S), and its prompt; (B,)."""
    # Several images of a prompt lie side by side: each text is encoded once.
    unique = {prompt: index for index, prompt in enumerate(dict.fromkeys(prompts))}
    texts = encoder.texts(list(unique))[[unique[prompt] for prompt in prompts]]
    return cast(list[float], (encoder.images(pixels) * texts).sum(-1).tolist())
