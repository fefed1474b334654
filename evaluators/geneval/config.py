"""What GenEval on COCO's classes is, and what it is set with; imports no framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import ClassVar

from evaluators.base import ADDRESS, Evaluator, JudgeConfig, check_settings
from evaluators.devices import check_dtype
from evaluators.geneval.metadata import check_vocabulary, parse_request
from evaluators.geneval.prompts import CLASS_NAMES, COLORS
from evaluators.weights import PublishedFile, PublishedWeights

DETECTOR_FILES = ("config.json", "model.safetensors", "pytorch_model.bin")
COLOR_FILES = (
    "open_clip_config.json", "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors",
)  # fmt: skip
_CONFIG = "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco"
_CHECKPOINT = f"{_CONFIG}_20220504_001756-743b7d99.pth"
#: mmdetection's own training, with which GenEval was published. Meta's of the same architecture,
#: facebook/mask2former-swin-small-coco-instance, has about the same precision, but another
#: calibration, and GenEval cuts at 0.3 and 0.9.
DETECTOR = PublishedFile(
    name=_CHECKPOINT,
    url=f"https://download.openmmlab.com/mmdetection/v2.0/mask2former/{_CONFIG}/{_CHECKPOINT}",
    # mmdetection puts the first eight digits into the name, and publishes no more of them.
    sha256="743b7d99",
    disk_gb=0.28,
    memory_gb=0.28,
)
_COLORS = PublishedWeights(
    repo="timm/vit_large_patch14_clip_224.openai", files=COLOR_FILES, disk_gb=1.71, memory_gb=1.71
)


class GenEvalFacts(JudgeConfig):
    """What GenEval's number is, whichever detector finds the objects, and what can be asked for."""

    kind = "geneval"
    title = "GenEval"
    summary = "objects, counts, colours and positions, by Mask2Former and CLIP"
    unit = "share of correct images"
    units: ClassVar[Mapping[str, str]] = {
        "overall": "macro: mean of the tasks' shares of correct images, 0..1",
        "strict_overall": "macro: mean of the tasks' shares by exact counts, 0..1",
        "strict_score": "macro: mean of the tasks' mean partial credits, at most 1",
        "images_correct": "% of images, whatever their tasks",
        "images_strict_score": "mean partial credit over images, at most 1",
        "prompts_correct": "% of prompts",
    }
    value_range = (0.0, 1.0)
    # Tasks have 80 to 100 prompts: the benchmark weighs them alike, and not their images.
    is_macro_mean = True
    code: ClassVar[tuple[str, ...]] = ("evaluators.geneval.metadata", "evaluators.geneval.verdict")
    class_names: ClassVar[Sequence[str]] = CLASS_NAMES
    color_names: ClassVar[Sequence[str]] = COLORS

    def check_prompt(self, prompt: str, metadata: Mapping[str, object]) -> None:  # noqa: ARG002
        """Refuse (``MetadataError``) what cannot be read, or an unknown class or colour."""
        check_vocabulary(parse_request(metadata), self.class_names, self.color_names)


@dataclass(frozen=True, kw_only=True)
class GenEvalConfig(GenEvalFacts):
    """GenEval's two models.

    Attributes:
        detector: mmdetection's checkpoint, by its published name or a path; or a hub id or local
            folder of a Mask2Former for COCO instances in transformers' layout, such as Meta's
            ``facebook/mask2former-swin-small-coco-instance``.
        color_model: Hub id or local folder of OpenAI's CLIP ViT-L/14, open_clip's layout.
        batch_size: Square images a forward of the detector, so many fewer if they are wide; None: 8
            on a GPU and 1 on a CPU.
        crop_batch_size: Objects a forward of the colour model, if that takes 224 x 224 pixels.
        dtype: ``float32``, ``bfloat16`` or ``float16``, of the models' weights and arithmetic; not
            of masks, scores and similarities.
        device: ``auto`` (the first GPU, else the CPU), or a torch device.
    """

    packages = ("torch", "transformers", "open_clip_torch")
    code = (
        *GenEvalFacts.code,
        "evaluators.clip.open_clip_models",
        "evaluators.geneval.colors",
        "evaluators.geneval.detectors",
        "evaluators.geneval.mask2former",
        "evaluators.geneval.mmdetection",
    )
    published = (DETECTOR, _COLORS)
    batch_gb = 5.94

    detector: str = DETECTOR.name
    color_model: str = _COLORS.repo
    batch_size: int | None = field(default=None, metadata=ADDRESS)
    crop_batch_size: int = field(default=64, metadata=ADDRESS)
    dtype: str = "float32"
    device: str = field(default="auto", metadata=ADDRESS)

    def __post_init__(self) -> None:
        models, counts = ("detector", "color_model"), ("batch_size", "crop_batch_size")
        check_settings(self, texts=models, counts=counts)
        check_dtype(self.dtype)

    @property
    def runs_on(self) -> str:
        """Its device."""
        return self.device

    def weight_files(self) -> Mapping[str, Sequence[str]]:
        """Both models'."""
        return {"detector": DETECTOR_FILES, "color_model": COLOR_FILES}

    def build(self) -> Evaluator:
        """GenEval on its published models; loads the weights."""
        # By name, as YAML names a class: the module of the judge imports this one.
        geneval: Evaluator = resolve_name("evaluators.geneval.mask2former:load_geneval")(self)
        return geneval
