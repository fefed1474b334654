"""The protocol behind a number: everything that makes it comparable, and its fingerprint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from evaluators.base import Evaluator
from soarbench.common.files import short_digest
from soarbench.config.settings import SamplingConfig, SuiteConfig
from soarbench.evaluation.suites import suite_size
from soarbench.models.base import ModelConfig

SEED_RULE = "sha256('prompt_id/image_index')[:8] >> 1, torch CPU generator"
#: Decoders, tokenisers and engines that may change a number without a change of ours.
_LIBRARIES = (
    "torch", "diffusers", "transformers", "open_clip_torch", "paddleocr", "onnxruntime", "pillow",
)  # fmt: skip


def image_facts(
    suite: SuiteConfig,
    model: ModelConfig,
    sampling: SamplingConfig,
    scheduler: Mapping[str, object],
) -> dict[str, object]:
    """The protocol's part that says how images were made; ``scheduler``: its class and shift."""
    # How many images a prompt has is not in it: every image has noise of its own, so that more of
    # them change no number of those that are there. Steps and guidance are: the same model was
    # seen to give 7.9 to 22 depending on them (UniRL issue 221).
    # Named where there is some: protocols of before it stay what they are.
    noise = {} if sampling.state_noise is None else {"state_noise": sampling.state_noise}
    return {
        "prompts": suite_size(suite)[0],
        "seed_rule": SEED_RULE,
        "resolution": model.resolution,
        "num_inference_steps": sampling.num_inference_steps,
        "guidance_scale": sampling.guidance_scale,
        **noise,
        **scheduler,
        "dtype": model.dtype,
        **model.text_facts(),
    }


def judge_facts(evaluator: Evaluator) -> dict[str, object]:
    """The protocol's part that says who judged."""
    return {
        "evaluator": evaluator.name,
        "evaluator_version": evaluator.version,
        "evaluator_settings": dict(evaluator.settings),
        "evaluator_weights": evaluator.weights_hash,
        "libraries": library_versions(),
    }


def fingerprint(facts: Mapping[str, object]) -> str:
    """Digest of a protocol."""
    return short_digest(json.dumps(facts, sort_keys=True).encode())


def library_versions() -> dict[str, str]:
    """Versions of the libraries that numbers may depend on, for the fingerprint."""
    return {name: _installed(name) for name in _LIBRARIES}


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        # Judges are optional, and so are their libraries.
        return "not installed"
