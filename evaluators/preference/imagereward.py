"""ImageReward: BLIP tuned on how people ranked images of a prompt (arXiv:2304.05977)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from evaluators.base import ADDRESS
from evaluators.clip import TOKENIZER_FILES
from evaluators.devices import on_device, torch_device, torch_dtype
from evaluators.preference.base import LoadedScorer, ScorerConfig
from evaluators.weights import (
    PublishedWeights,
    WeightsError,
    combined_hash,
    resolve_directory,
    resolve_file,
)

if TYPE_CHECKING:
    from torch import Tensor

_MODEL = PublishedWeights(
    repo="THUDM/ImageReward", files=("ImageReward.pt",), disk_gb=1.79, memory_gb=1.79
)
_TOKENIZER = PublishedWeights(
    repo="google-bert/bert-base-uncased", files=TOKENIZER_FILES, disk_gb=0.001, memory_gb=0.0
)


@dataclass(frozen=True, kw_only=True)
class ImageRewardConfig(ScorerConfig):
    """The standardised reward: about 0 on average, 1 is one standard deviation better.

    ``weights`` is a file, a directory that holds ``weights_file``, or a hub id.

    Attributes:
        weights_file: Name of the checkpoint there.
        tokenizer: Hub id or directory of BERT's tokenizer.
    """

    kind = "imagereward"
    title = "ImageReward"
    summary = "human preference (ImageReward)"
    unit = "standard deviations of the reward, (raw - 0.1672) / 1.0333"
    value_range = (-4.0, 4.0)
    code = ("evaluators.preference.imagereward_model", "evaluators.preference.rating_head")
    published = (_MODEL, _TOKENIZER)
    batch_gb = 1.80

    weights: str = _MODEL.repo
    weights_file: str = field(default=_MODEL.files[0], metadata=ADDRESS)
    tokenizer: str = _TOKENIZER.repo

    def weight_files(self) -> Mapping[str, Sequence[str]]:
        """The checkpoint, and the tokenizer's."""
        return {"weights": (self.weights_file,), "tokenizer": TOKENIZER_FILES}

    def load(self) -> LoadedScorer:
        """Find, check and load the checkpoint and BERT's tokenizer."""
        import torch
        from open_clip.transform import PreprocessCfg, image_transform_v2
        from transformers import AutoTokenizer

        from evaluators.preference.imagereward_model import MAX_TOKENS, load_published

        path = resolve_file(self.weights, self.weights_file)
        folder = resolve_directory(self.tokenizer, TOKENIZER_FILES, key="tokenizer")
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as err:
            raise WeightsError(
                f"tokenizer={self.tokenizer}: transformers cannot load it; it must be BERT's"
            ) from err
        device, dtype = torch_device(self.device), torch_dtype(self.dtype)
        model = load_published(path)
        model.to(device)
        # The head stays in float32: bfloat16 would leave its one number two or three digits.
        for encoder in (model.vision, model.text):
            torch.nn.Module.to(encoder, dtype=dtype)
        # BLIP was published with CLIP's transform.
        size = cast(int, model.vision.config.image_size)
        transform = image_transform_v2(PreprocessCfg(size=size), is_train=False)

        def values(prompts: Sequence[str], pixels: Tensor) -> list[float]:
            tokens = tokenizer(
                list(prompts),
                padding="max_length",
                truncation=True,
                max_length=MAX_TOKENS,
                return_tensors="pt",
            )
            ids, mask = (on_device(tokens[n], device) for n in ("input_ids", "attention_mask"))
            # B pairs: the authors' package scores all B x B and takes the diagonal.
            return cast(list[float], model(on_device(pixels, device, dtype), ids, mask).tolist())

        vocabulary = [one for name in TOKENIZER_FILES if (one := folder / name).is_file()]
        return LoadedScorer(values, transform, size, combined_hash([path, *vocabulary]))
