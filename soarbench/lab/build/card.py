"""The laboratory's card: what was built, and measurements of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr

from evaluators.base import Evaluator, Sample
from evaluators.ocr.evaluator import OcrConfig
from soarbench.evaluation.seeds import evaluation_noise
from soarbench.lab.config import LabModelConfig
from soarbench.lab.judges import (
    LabAestheticConfig,
    LabClipScoreConfig,
    LabGenEvalConfig,
    OracleAesthetic,
)
from soarbench.lab.suites import LabSuite, Part
from soarbench.lab.world.grammar import TASKS, all_compositions, lay_out, split, training_sample
from soarbench.lab.world.oracles import detect
from soarbench.lab.world.scenes import CLEAN_STYLE, Pixels, Scene, render
from soarbench.models.sd3.model import SD3Model

STEPS, GUIDANCE_SCALE, IMAGES_PER_PROMPT = 20, 3.0, 4
log = logging.getLogger(__name__)


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
        hits = 0
        for _ in range(renders_per_task):
            scene = lay_out(pool[rng.integers(len(pool))], CLEAN_STYLE, rng)
            hits += shapes_found(render(scene), scene)
        accuracy[task] = hits / renders_per_task
    return accuracy


def reconstruction(model: SD3Model, count: int, seed: int = 1) -> dict[str, float]:
    """How well the autoencoder keeps broad pictures: error, and what the detector still finds."""
    rng = np.random.default_rng(seed)
    samples = [training_sample(rng) for _ in range(count)]
    originals = [Image.fromarray(render(sample.scene)) for sample in samples]
    drawn = model.decode(model.encode_images(originals))
    shapes = [
        (np.asarray(image), sample.scene)
        for image, sample in zip(drawn, samples, strict=True)
        if sample.composition.text is None
    ]
    errors = [
        np.square((np.asarray(a, float) - np.asarray(b, float)) / 127.5).mean()
        for a, b in zip(originals, drawn, strict=True)
    ]
    accepted = [shapes_found(pixels, scene) for pixels, scene in shapes]
    return {"mean_squared_error": float(np.mean(errors)), "accepted": float(np.mean(accepted))}


def matching_pairs(count: int, seed: int = 2) -> list[tuple[Sample, Sample]]:
    """Fresh broad renders with their own caption, and with that of another of the pictures."""
    rng = np.random.default_rng(seed)
    drawn = [training_sample(rng, wrong_captions=0.0) for _ in range(count)]
    pairs = []
    for index, sample in enumerate(drawn):
        others = [o.caption for o in drawn if o.composition != sample.composition]
        image = Image.fromarray(render(sample.scene))
        name = str(index)
        right = Sample(sample_id=name, prompt_id=name, prompt=sample.caption, image=image)
        swapped = str(rng.choice(others))
        wrong = Sample(sample_id=f"{name}x", prompt_id=name, prompt=swapped, image=image)
        pairs.append((right, wrong))
    return pairs


def pair_accuracy(clipscore: Evaluator, count: int) -> float:
    """Share of pairs whose matching caption scores higher than the swapped one."""
    pairs = matching_pairs(count)
    right = clipscore.score([pair[0] for pair in pairs])
    wrong = clipscore.score([pair[1] for pair in pairs])
    return float(np.mean([a.value > b.value for a, b in zip(right, wrong, strict=True)]))


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
        for (item, i), image in zip(batch, model.decode(latents), strict=True):
            samples.append(
                Sample(
                    sample_id=f"{item.prompt_id}/{i}",
                    prompt_id=item.prompt_id,
                    prompt=item.prompt,
                    image=image,
                    metadata=item.metadata,
                )
            )
    return samples


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


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
        "ocr": _mean(_values(OcrConfig().build(), base_samples(model, "ocr", 2))),
        "clip_pair_accuracy": pair_accuracy(clipscore, 1000),
        "clipscore_of_base": _mean(_values(clipscore, drawn)),
        "aesthetic_spearman": float(spearmanr(truth, rated).statistic),
        "aesthetic_of_base": _mean(rated),
        "oracle_aesthetic_of_base": _mean(truth),
        "parameters": {
            name: sum(p.numel() for p in part.parameters())
            for name, part in model.pipeline.components.items()
            if isinstance(part, torch.nn.Module)
        },
    }


def write_card(work_dir: Path, assets: Path) -> None:
    """Measure the assets and write ``card.json`` and ``CARD.md`` beside them."""
    numbers = measure()
    seconds = {path.stem: int(path.read_text()) for path in sorted(work_dir.glob("*.seconds"))}
    size = sum(path.stat().st_size for path in assets.rglob("*") if path.is_file())
    numbers |= {"build_seconds": seconds, "megabytes": round(size / 1e6, 1)}
    (assets / "card.json").write_text(json.dumps(numbers, indent=1) + "\n")
    (assets / "CARD.md").write_text(_markdown(numbers))


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
        "The base model saw 40,000 broad pictures, one caption in ten wrong; "
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
