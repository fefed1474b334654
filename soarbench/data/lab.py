"""Curated training rows of the laboratory."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from baselines.stream import Row
from evaluators.base import Sample
from soarbench.data.config import LabDataConfig
from soarbench.lab.assets import weights_hash
from soarbench.lab.grammar import demands, training_sample
from soarbench.lab.scenes import render
from soarbench.models.sd3 import SD3Model
from soarbench.typed import plain

log = logging.getLogger(__name__)

Scorer = Callable[[Sequence[Sample]], Sequence[float]]


class _Stored(TypedDict):
    """What is cached on disk: everything about the kept pictures that costs time."""

    x0: Tensor
    prompts: list[str]
    scores: dict[str, list[float]]


def draw_candidates(config: LabDataConfig) -> list[Sample]:
    """Draw the candidates; ``sample_id`` is the row number, ``prompt`` the caption."""
    found = []
    for index in range(config.num_candidates):
        rng = np.random.default_rng((config.seed, index))
        sample = training_sample(rng, config.wrong_captions, config.kinds)
        image = Image.fromarray(render(sample.scene))
        found.append(
            Sample(sample_id=str(index), prompt_id=str(index), prompt=sample.caption, image=image)
        )
    return found


def smallest_rank(scores: Mapping[str, Sequence[float]]) -> NDArray[np.float64]:
    """Each candidate's worst rank over the scores, 0 (worst) .. 1 (best). -> (N,)."""
    ranks = []
    for values in scores.values():
        order = np.argsort(np.argsort(values, kind="stable"), kind="stable")
        ranks.append(order / max(len(values) - 1, 1))
    return np.asarray(np.min(ranks, axis=0), dtype=np.float64)


def _select(config: LabDataConfig, model: SD3Model, scorers: Mapping[str, Scorer]) -> _Stored:
    candidates = draw_candidates(config)
    scores = {name: list(scorers[name](candidates)) for name in config.select_by}
    ranks = smallest_rank(scores)
    count = round(config.num_candidates * config.keep_fraction)
    kept = np.sort(np.argsort(-ranks, kind="stable")[:count])
    chosen = [candidates[i] for i in kept]
    return {
        "x0": model.encode_images([sample.image for sample in chosen]),
        "prompts": [sample.prompt for sample in chosen],
        "scores": {name: [values[i] for i in kept] for name, values in scores.items()},
    }


def lab_rows(
    config: LabDataConfig, model: SD3Model, scorers: Mapping[str, Scorer], cache_dir: Path
) -> list[Row]:
    """The curated rows, from the cache if the same configuration and weights made them before.

    Args:
        config: How many pictures are drawn and which are kept.
        model: Encodes pictures and prompts.
        scorers: The learned scores named by ``config.select_by``.
        cache_dir: Where kept latents are stored, shared by all cells of a run directory.
    """
    key = (plain(config), [weights_hash(n) for n in ("base", "clip", "aesthetic")])
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_dir / f"lab-{digest}.pt"
    if not path.is_file():
        cache_dir.mkdir(parents=True, exist_ok=True)
        torch.save(_select(config, model, scorers), path.with_suffix(".partial"))
        path.with_suffix(".partial").replace(path)
    stored: _Stored = torch.load(path, weights_only=True)
    for name, values in stored["scores"].items():
        log.info("%s of the %d training pictures: at least %.3f", name, len(values), min(values))
    conditions = model.encode_prompts(stored["prompts"])
    return [
        {
            "x0": stored["x0"][i],
            "condition": {name: value[i] for name, value in conditions.items()},
            "prompt": prompt,
            "columns": {"metadata": demands(prompt)},
        }
        for i, prompt in enumerate(stored["prompts"])
    ]
