"""The laboratory's card: what was built, and measurements of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr

from evaluators.base import Evaluator, Sample
from evaluators.ocr.evaluator import OcrConfig
from soarbench.evaluation.seeds import evaluation_noise
from soarbench.lab.assets import ASSETS
from soarbench.lab.build.training import NUM_PICTURES
from soarbench.lab.config import LabModelConfig
from soarbench.lab.judges import (
    LabAestheticConfig,
    LabClipScoreConfig,
    LabGenEvalConfig,
    OracleAesthetic,
    picture,
)
from soarbench.lab.suites import LabSuite, Part
from soarbench.lab.world.grammar import TASKS, all_compositions, lay_out, split, training_sample
from soarbench.lab.world.oracles import detect
from soarbench.lab.world.scenes import CLEAN_STYLE, Pixels, Scene, render
from soarbench.models.sd3.model import SD3Model

STEPS, GUIDANCE_SCALE, IMAGES_PER_PROMPT = 20, 3.0, 4


def shapes_found(pixels: Pixels, scene: Scene) -> bool:
    """Whether the detector finds exactly the drawn shapes in their colours."""
    pairs = sorted((placed.shape, placed.color) for placed in scene.objects)
    return pairs == sorted((s.label, s.color) for s in detect(pixels) if s.score > 0.3)


def detector_accuracy(renders_per_task: int, seed: int = 0) -> dict[str, float]:
    """Share of fresh clean renders in which the detector finds exactly what was drawn, by task."""
    rng = np.random.default_rng(seed)
    accuracy = {}
    for task in TASKS:
        pool = all_compositions()[task]
        scenes = [
            lay_out(pool[rng.integers(len(pool))], CLEAN_STYLE, rng)
            for _ in range(renders_per_task)
        ]
        hits = sum(shapes_found(render(scene), scene) for scene in scenes)
        accuracy[task] = hits / renders_per_task
    return accuracy


def reconstruction(model: SD3Model, count: int) -> dict[str, float]:
    """How well the autoencoder keeps broad pictures: error, and what the detector still finds."""
    rng = np.random.default_rng(1)
    samples = [training_sample(rng) for _ in range(count)]
    originals = [render(sample.scene) for sample in samples]
    decoded = model.decode(model.encode_images([Image.fromarray(pixels) for pixels in originals]))
    drawn = [np.asarray(image) for image in decoded]
    errors = [
        np.square((a.astype(float) - b) / 127.5).mean()
        for a, b in zip(originals, drawn, strict=True)
    ]
    # The detector knows shapes alone: a word is the OCR engine's to read.
    accepted = [
        shapes_found(pixels, sample.scene)
        for pixels, sample in zip(drawn, samples, strict=True)
        if sample.composition.text is None
    ]
    return {"mean_squared_error": float(np.mean(errors)), "accepted": float(np.mean(accepted))}


def pair_accuracy(clipscore: Evaluator, count: int) -> float:
    """Share of fresh broad renders whose own caption scores higher than another picture's."""
    rng = np.random.default_rng(2)
    drawn = [training_sample(rng, wrong_captions=0.0) for _ in range(count)]
    right, wrong = [], []
    for index, sample in enumerate(drawn):
        others = [o.caption for o in drawn if o.composition != sample.composition]
        right.append(picture(str(index), sample.caption, sample.scene))
        wrong.append(replace(right[-1], prompt=str(rng.choice(others))))
    scores = zip(clipscore.score(right), clipscore.score(wrong), strict=True)
    return float(np.mean([a.value > b.value for a, b in scores]))


def base_samples(model: SD3Model, part: Part, images_per_prompt: int) -> list[Sample]:
    """Images of a suite by the base model, with the evaluation seeds."""
    suite = LabSuite(name=f"lab_{part}", part=part, judges=())
    plan = [(item, i) for item in suite.items() for i in range(images_per_prompt)]
    samples: list[Sample] = []
    for start in range(0, len(plan), 64):
        batch = plan[start : start + 64]
        noise = evaluation_noise([(item.prompt_id, i) for item, i in batch], model.latent_shape)
        negative = model.encode_prompts([""] * len(batch))
        condition = model.encode_prompts([item.prompt for item, _ in batch])
        latents = model.sample(
            condition, negative, noise, num_inference_steps=STEPS, guidance_scale=GUIDANCE_SCALE
        )
        samples += [
            Sample(
                sample_id=f"{item.prompt_id}/{i}",
                prompt_id=item.prompt_id,
                prompt=item.prompt,
                image=image,
                metadata=item.metadata,
            )
            for (item, i), image in zip(batch, model.decode(latents), strict=True)
        ]
    return samples


def _values(evaluator: Evaluator, samples: Sequence[Sample]) -> list[float]:
    evaluator.check_canaries()
    return [score.value for score in evaluator.score(samples)]


def measure() -> dict[str, object]:
    """Every number of the card."""
    model = SD3Model.load(LabModelConfig())
    drawn = base_samples(model, "geneval", IMAGES_PER_PROMPT)
    truth = _values(OracleAesthetic(), drawn)
    rated = _values(LabAestheticConfig().build(), drawn)
    judge, clipscore = LabGenEvalConfig().build(), LabClipScoreConfig().build()
    return {
        "detector_accuracy": detector_accuracy(300),
        "autoencoder": reconstruction(model, 400),
        "geneval": judge.aggregate(drawn, judge.score(drawn)),
        "ocr": float(np.mean(_values(OcrConfig().build(), base_samples(model, "ocr", 2)))),
        "clip_pair_accuracy": pair_accuracy(clipscore, 1000),
        "clipscore_of_base": float(np.mean(_values(clipscore, drawn))),
        "aesthetic_spearman": float(spearmanr(truth, rated).statistic),
        "aesthetic_of_base": float(np.mean(rated)),
        "oracle_aesthetic_of_base": float(np.mean(truth)),
        "parameters": {
            name: sum(p.numel() for p in part.parameters())
            for name, part in model.pipeline.components.items()
            if isinstance(part, torch.nn.Module)
        },
    }


def write_card(work_dir: Path) -> None:
    """Measure the assets and write ``card.json`` and ``CARD.md`` beside them."""
    numbers = measure()
    seconds = {path.stem: int(path.read_text()) for path in sorted(work_dir.glob("*.seconds"))}
    size = sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file())
    numbers |= {"build_seconds": seconds, "megabytes": round(size / 1e6, 1)}
    (ASSETS / "card.json").write_text(json.dumps(numbers, indent=1) + "\n")
    (ASSETS / "CARD.md").write_text(_markdown(numbers))


def _table(title: str, rows: object) -> list[str]:
    assert isinstance(rows, dict)
    lines = [f"## {title}", "", "| what | value |", "| --- | --- |"]
    lines += [
        f"| {k} | {v:.3f} |" if isinstance(v, float) else f"| {k} | {v:,} |"
        for k, v in rows.items()
    ]
    return [*lines, ""]


def _markdown(numbers: dict[str, object]) -> str:
    flat = {key: value for key, value in numbers.items() if isinstance(value, float)}
    held_out = split()
    lines = [
        "# Card of the laboratory",
        "",
        "Drawn, trained and measured by `python -m soarbench lab build`, from seeds.",
        f"The base model saw {NUM_PICTURES:,} broad pictures, one caption in ten wrong; "
        f"{len(held_out.geneval)} GenEval, {len(held_out.ocr)} OCR and {len(held_out.drawbench)} "
        f"DrawBench-like prompts were held out. Samples: {STEPS} Euler steps, guidance "
        f"{GUIDANCE_SCALE}, {IMAGES_PER_PROMPT} images a GenEval prompt, 2 an OCR prompt. Weights "
        "are stored in half precision.",
        "",
        *_table("Measured", flat),
        *_table("GenEval of the base model", numbers["geneval"]),
        *_table("Detector, share of clean renders read exactly", numbers["detector_accuracy"]),
        *_table("Autoencoder", numbers["autoencoder"]),
        *_table("Parameters", numbers["parameters"]),
        *_table("Build seconds", numbers["build_seconds"]),
    ]
    return "\n".join(lines)
