"""What a measure of diversity is: a configuration that names weights and builds the measure."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from PIL import Image

from evaluators.base import ADDRESS
from evaluators.clip import CLIP_FILES
from evaluators.devices import torch_device
from evaluators.weights import content_digest, resolve_directory, resolve_file

#: The diversity of the RGB images of one prompt, two or more.
Measure = Callable[[Sequence[Image.Image]], float]


@dataclass(frozen=True, kw_only=True)
class DiversityConfig(abc.ABC):
    """A measure as it is set; ``evaluators.base.JudgeConfig`` for single images.

    Attributes:
        weights: Of the encoder; hub id (``owner/name``, ``owner/name@revision``) or local path.
            null leaves the measure out.
        batch_size: Images at a time.
        device: ``auto`` (the first GPU, else the CPU), or a torch device.
    """

    #: Name in addresses; ``version`` changes whenever a number may.
    kind: ClassVar[str]
    version: ClassVar[str] = "1"
    code: ClassVar[tuple[str, ...]] = ()

    weights: str | None = None
    batch_size: int = field(default=32, metadata=ADDRESS)
    device: str = field(default="auto", metadata=ADDRESS)

    def __post_init__(self) -> None:
        for name in self.weight_files():
            if getattr(self, name) == "":
                raise ValueError(f"{name} is empty: give a path, or null to leave the measure out")
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}: must be at least 1")

    @abc.abstractmethod
    def weight_files(self) -> Mapping[str, Sequence[str]]:
        """The settings that name weights, each with the files that it needs."""

    @abc.abstractmethod
    def build(self) -> Measure:
        """Load the weights; a ``WeightsError`` where they are missing or do not fit."""

    def identity(self) -> dict[str, object]:
        """What its address holds, as JSON values."""
        names = self.weight_files().items()
        digests = {name: content_digest(str(getattr(self, name)), files) for name, files in names}
        return {"kind": self.kind, "version": self.version, "weights": digests}


@dataclass(frozen=True, kw_only=True)
class VendiConfig(DiversityConfig):
    """The Vendi score of a CLIP's image embeddings: how many unlike images there are, 1 to N.

    ``weights`` is a CLIP in transformers' or open_clip's directory layout.

    Source: Friedman and Dieng 2023, arXiv:2210.02410, with the cosine as the similarity.
    """

    kind = "vendi"
    code = ("evaluators.clip.encoders", "evaluators.diversity.measures")

    def weight_files(self) -> Mapping[str, Sequence[str]]:
        """The CLIP's."""
        return {"weights": CLIP_FILES}

    def build(self) -> Measure:
        """Load the CLIP."""
        import torch

        from evaluators.clip.encoders import load_clip
        from evaluators.diversity.measures import Vendi

        directory = resolve_directory(str(self.weights), CLIP_FILES)
        device = torch_device(self.device)
        return Vendi(load_clip(directory, dtype=torch.float32, device=device), self.batch_size)


@dataclass(frozen=True, kw_only=True)
class LpipsConfig(DiversityConfig):
    """LPIPS on AlexNet, mean over pairs of images: how unlike people find them, 0 for equal ones.

    ``weights`` is torchvision's AlexNet of ImageNet, a state dict.

    Attributes:
        head: The learned weights of its five layers: ``alex.pth`` of the ``lpips`` package, v0.1.

    Source: Zhang et al. 2018, arXiv:1801.03924.
    """

    kind = "lpips"
    code = ("evaluators.diversity.measures",)

    head: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.weights is None) != (self.head is None):
            raise ValueError(
                f"weights={self.weights}, head={self.head}: LPIPS needs both files, or neither"
            )

    def weight_files(self) -> Mapping[str, Sequence[str]]:
        """The network's and the layers'."""
        return {"weights": ("alexnet-owt-7be5be79.pth",), "head": ("alex.pth",)}

    def build(self) -> Measure:
        """Load both files."""
        from evaluators.diversity.measures import Lpips

        weights, head = (
            resolve_file(str(getattr(self, key)), files[0], key=key)
            for key, files in self.weight_files().items()
        )
        return Lpips(weights, head, batch_size=self.batch_size, device=torch_device(self.device))
