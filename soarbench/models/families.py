"""Which of our configurations a hub id or a saved pipeline takes its settings from."""

from __future__ import annotations

from collections.abc import Mapping

from soarbench.models.flux2_klein.architecture import KNOWN as FLUX2_KLEIN
from soarbench.models.qwen_image.architecture import KNOWN as QWEN_IMAGE
from soarbench.models.sana.architecture import KNOWN as SANA
from soarbench.models.sd3.architecture import KNOWN as SD3
from soarbench.models.z_image.architecture import KNOWN as Z_IMAGE
from soarbench.models.z_image.architecture import is_turbo

#: Hub ids that configurations are of.
KNOWN: Mapping[str, str] = {**SD3, **FLUX2_KLEIN, **SANA, **Z_IMAGE, **QWEN_IMAGE}
#: By the class that a pipeline's index names.
_LIKE = {
    "StableDiffusion3Pipeline": "sd35_medium",
    "Flux2KleinPipeline": "flux2_klein_4b",
    "SanaPipeline": "sana_600m",
    "ZImagePipeline": "z_image",
    "QwenImagePipeline": "qwen_image",
}


def like(index: Mapping[str, object], scheduler: Mapping[str, object]) -> str:
    """The configuration whose settings a pipeline takes, by its files.

    Args:
        index: ``model_index.json``.
        scheduler: ``scheduler/scheduler_config.json``.
    """
    name = _LIKE.get(str(index.get("_class_name")), "sd35_medium")
    if name == "flux2_klein_4b" and index.get("is_distilled") is True:
        return "flux2_klein_4b_distilled"
    return "z_image_turbo" if name == "z_image" and is_turbo(scheduler) else name
