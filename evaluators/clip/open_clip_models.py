"""open_clip models as local directories in open_clip's own ``local-dir:`` layout.

A directory holds ``open_clip_config.json`` (``model_cfg``, ``preprocess_cfg``), the weights and,
where ``text_cfg.hf_tokenizer_name`` is set, the tokenizer's files.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple, cast

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedTokenizerBase

from evaluators.devices import on_device
from evaluators.weights import WeightsError, first_line

CONFIG_FILE = "open_clip_config.json"
WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
Preprocess = Callable[[Image.Image], Tensor]


class OpenClipParts(NamedTuple):
    """A model ready to run, its transform (PIL -> (3, H, W)) and tokenizer (-> (B, length))."""

    model: open_clip.CLIP
    preprocess: Preprocess
    tokenizer: Callable[[list[str]], Tensor]

    @property
    def width(self) -> int:
        """Size D of an embedding."""
        return int(self.model.visual.output_dim)

    @property
    def side(self) -> int:
        """Pixels along a side of what the image tower takes."""
        size = self.model.visual.image_size
        return int(size if isinstance(size, int) else size[0])

    def images(self, pixels: Tensor) -> Tensor:
        """Unit image embeddings (B, D), float32, of preprocessed images (B, 3, S, S)."""
        weight = next(self.model.parameters())
        features = self.model.encode_image(on_device(pixels, weight.device, weight.dtype))
        # Normalised after the cast: in bfloat16 a length of 1 is known to 1 part in 256 only.
        return normalize(features.float(), dim=-1)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit text embeddings (B, D), float32."""
        tokens = on_device(self.tokenizer(list(texts)), next(self.model.parameters()).device)
        return normalize(self.model.encode_text(tokens).float(), dim=-1)


def build_open_clip(config: Mapping[str, object]) -> open_clip.CLIP:
    """A config's model of random weights, on the CPU; ``WeightsError`` where open_clip refuses."""
    model_cfg = copy.deepcopy(config.get("model_cfg"))
    if not isinstance(model_cfg, dict):
        raise WeightsError(f"{CONFIG_FILE} has no model_cfg; it must be open_clip's")
    if model_cfg.pop("custom_text", False):
        raise WeightsError(f"{CONFIG_FILE}: custom_text models are not supported; use a plain CLIP")
    try:
        model = open_clip.CLIP(**model_cfg)
    except (TypeError, ValueError, KeyError) as err:
        raise WeightsError(f"{CONFIG_FILE}: open_clip refuses model_cfg ({err})") from err
    # open_clip's own code finds the transform here.
    model.visual.preprocess_cfg = asdict(_preprocess_cfg(config))
    return model


def _preprocess_cfg(config: Mapping[str, object]) -> PreprocessCfg:
    """open_clip's transform of a config; the size is that of the image tower unless given."""
    given = config.get("preprocess_cfg", {})
    model_cfg = cast(dict[str, dict[str, object]], config["model_cfg"])
    size = model_cfg["vision_cfg"].get("image_size", 224)
    if not isinstance(given, dict):
        raise WeightsError(f"{CONFIG_FILE}: preprocess_cfg must be a mapping, not {given!r}")
    # Published files hold keys of older and newer versions as well.
    known = PreprocessCfg.__dataclass_fields__.keys()
    return PreprocessCfg(**{"size": size, **{key: given[key] for key in given if key in known}})


def image_preprocess(config: Mapping[str, object]) -> Preprocess:
    """The image transform of a config: RGB image -> (3, H, W) float32."""
    return cast(Preprocess, image_transform_v2(_preprocess_cfg(config), is_train=False))


def save_open_clip(
    directory: Path,
    model: open_clip.CLIP,
    config: Mapping[str, object],
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> None:
    """Write a directory; a tokenizer is needed where ``text_cfg.hf_tokenizer_name`` is set."""
    directory.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        tokenizer.save_pretrained(str(directory))
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    save_file(state, directory / WEIGHT_FILES[0], metadata={"format": "pt"})
    content = {"model_cfg": config["model_cfg"], "preprocess_cfg": asdict(_preprocess_cfg(config))}
    (directory / CONFIG_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_config(directory: Path) -> dict[str, object]:
    """The JSON object of a directory's ``open_clip_config.json``; ``WeightsError`` without one."""
    path = directory / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise WeightsError(f"cannot read {path}: {err}") from err
    if not isinstance(config, dict):
        raise WeightsError(f"{path} is not a JSON object; it must be open_clip's")
    return config


def load_open_clip(
    directory: Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> OpenClipParts:
    """Load a directory strictly; ``WeightsError`` where its files are missing or do not fit."""
    config, weights = read_config(directory), weight_file(directory)
    return load_parts(config, weights, directory, dtype=dtype, device=device)


def load_parts(
    config: Mapping[str, object],
    weights: Path,
    directory: Path,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
) -> OpenClipParts:
    """A config's model and tokenizer with a file's weights; ``WeightsError`` if they do not fit."""
    # open_clip's own loader interpolates, skips or leaves at random values what does not fit.
    model = build_open_clip(config)
    load_strictly(model, load_tensors(weights), weights)
    model.eval().requires_grad_(False)
    model.to(device=device, dtype=dtype)
    return OpenClipParts(model, image_preprocess(config), _tokenizer(config, directory))


def weight_file(directory: Path) -> Path:
    """The safetensors file of a directory; ``WeightsError`` where there is none."""
    for name in WEIGHT_FILES:
        if (directory / name).is_file():
            return directory / name
    raise WeightsError(f"{directory} has no {WEIGHT_FILES[0]}; save the model with safetensors")


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read safetensors or a pickled state dict; ``WeightsError`` if it is unreadable or more."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # A pickle can run any code when it is read; this reads tensors alone.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, UnpicklingError, RuntimeError, EOFError) as err:
        raise WeightsError(
            f"cannot read weights {path} ({first_line(err)}); fetch the file again"
        ) from err
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict):
        raise WeightsError(f"weights {path} hold a {type(state).__name__}, not a state dict")
    return cast(dict[str, Tensor], state)


def load_strictly(model: torch.nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Load exactly the model's keys and shapes; ``WeightsError`` names one that does not fit."""
    expected = model.state_dict()
    faults = [f"{key} is missing" for key in expected.keys() - state.keys()]
    faults += [f"{key} is unknown" for key in state.keys() - expected.keys()]
    faults += [
        f"{key} is {tuple(state[key].shape)}, not {tuple(expected[key].shape)}"
        for key in expected.keys() & state.keys()
        if state[key].shape != expected[key].shape
    ]
    if faults:
        # The least of them: sets have no order, and a message should not change between runs.
        raise WeightsError(
            f"weights {source} are of another shape than the model: {min(faults)} "
            f"({len(faults)} such entries)"
        )
    model.load_state_dict(dict(state))


def _tokenizer(config: Mapping[str, object], directory: Path) -> Callable[[list[str]], Tensor]:
    """The directory's own tokenizer where the config asks for one, else CLIP's."""
    text_cfg = cast(dict[str, dict[str, object]], config["model_cfg"])["text_cfg"]
    length = cast(int, text_cfg.get("context_length", 77))
    extra = cast(dict[str, str], text_cfg.get("tokenizer_kwargs") or {})
    if not text_cfg.get("hf_tokenizer_name"):
        return cast(Callable[[list[str]], Tensor], open_clip.SimpleTokenizer(context_length=length))
    # The config names a repository on the hub; the files here are those it was trained with.
    try:
        tokenizer = open_clip.tokenizer.HFTokenizer(str(directory), context_length=length, **extra)
    except (OSError, ValueError) as err:
        raise WeightsError(f"{directory} has no tokenizer that transformers can load") from err
    return cast(Callable[[list[str]], Tensor], tokenizer)
